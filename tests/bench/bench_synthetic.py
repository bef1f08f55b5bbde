"""How fast people are made: frames per second of one core, from the seed to finished clips with their truth.

    python tests/bench/bench_synthetic.py

prints frames per second of processor time, a frame counted once whether one person or two are in it; the aim is 20,000. The best of
several repetitions; none of the operations uses more than one thread.
"""

import time

from skelnb.data.synthetic import synthesize, synthesize_untrimmed


def frames_per_second(make, n: int, repeats=5, **options) -> float:
    make(n, **options)
    rates = []
    for seed in range(repeats):
        start = time.process_time()
        clips = make(n, seed=seed, **options)
        rates.append(sum(map(len, clips)) / (time.process_time() - start))
    return max(rates)


def main():
    for make, n in (synthesize, 512), (synthesize_untrimmed, 64):
        for persons in 1, 2:
            print(f"{make.__name__}, {persons} person{'s'[:persons - 1]}: {frames_per_second(make, n, persons=persons):,.0f} frames/s")


if __name__ == "__main__":
    main()

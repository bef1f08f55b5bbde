"""The usual evaluators as plain Python, for the benchmarks: the same numbers with one step per frame, per table cell, per pair of events.

They are written after the structure of the published evaluators (labels compared frame by frame; every predicted segment against the segments of
its video; every proposal against all true events of its list), are linear where those are linear, and are given lists, not arrays: an item of
an array costs a Python loop three times as much."""


def runs(labels, background=0):
    "(start, end, label) of one video, without the background; None keeps all."
    found, start = [], 0
    for i in range(1, len(labels) + 1):
        if i == len(labels) or labels[i] != labels[start]:
            if labels[start] != background:
                found.append((start, i, labels[start]))
            start = i
    return found


def levenshtein(a, b):
    "The whole table, cell by cell."
    table = [[i + j for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            if a[i - 1] == b[j - 1]:
                table[i][j] = table[i - 1][j - 1]
            else:
                table[i][j] = 1 + min(table[i - 1][j], table[i][j - 1], table[i - 1][j - 1])
    return table[-1][-1]


def edit(pred, truth, background=0):
    a, b = ([r[2] for r in runs(x, background)] for x in (pred, truth))
    return 1 - levenshtein(a, b) / max(len(a), len(b), 1)


def f1_counts(pred, truth, overlap, background=0):
    "(true positives, predicted segments, true segments) of one video."
    p, g = runs(pred, background), runs(truth, background)
    taken = [False] * len(g)
    hits = 0
    for start, end, label in p:
        overlaps = []
        for true_start, true_end, true_label in g:
            inter = min(end, true_end) - max(start, true_start)
            union = max(end, true_end) - min(start, true_start)
            overlaps.append(inter / union * (label == true_label))
        mine = overlaps.index(max(overlaps)) if g else -1
        if g and overlaps[mine] >= overlap and not taken[mine]:
            taken[mine] = True
            hits += 1
    return hits, len(p), len(g)


def frame_accuracy(pred, truth):
    right = frames = 0
    for p, t in zip(pred, truth):
        for a, b in zip(p, t):
            right += a == b
            frames += 1
    return right / frames


def edit_score(pred, truth, background=0):
    return sum(edit(p, t, background) for p, t in zip(pred, truth)) / len(truth)


def f1_at(pred, truth, overlap, background=0):
    hits = n = 0
    for p, t in zip(pred, truth):
        h, a, b = f1_counts(p, t, overlap, background)
        hits, n = hits + h, n + a + b
    return 2 * hits / n if n else 1.0


def overlap(p, g, inclusive):
    "IoU of two events (video, label, start, end, ...); 0 in different videos or of different classes."
    if p[0] != g[0] or p[1] != g[1]:
        return 0.0
    inter = min(p[3], g[3]) - max(p[2], g[2]) + inclusive
    hull = max(p[3], g[3]) - min(p[2], g[2]) + inclusive
    return inter / hull if hull > 0 else 0.0


def pku_ap(pred, truth, tiou):
    "PKU-MMD: attach all, then take proposals away from the bottom."
    pred = sorted(pred, key=lambda r: r[4])
    partner, attached = [], [0] * len(truth)
    for p in pred:
        mine, best = -1, tiou
        for k, g in enumerate(truth):
            value = overlap(p, g, 0)
            if value >= best:
                mine, best = k, value
        partner.append(mine)
        if mine >= 0:
            attached[mine] += 1
    if not pred or not truth:
        return 0.0
    left, found = len(pred), sum(n > 0 for n in attached)
    envelope, recall, area = found / left, found / len(truth), 0.0
    for mine in partner:
        left -= 1
        if mine < 0:
            continue
        attached[mine] -= 1
        found -= attached[mine] == 0
        envelope = max(envelope, found / left if left else 0.0)
        area += envelope * (recall - found / len(truth))
        recall = found / len(truth)
    return area


def greedy_ap(pred, truth, tiou, inclusive, second_choice):
    "Most confident first; best partner, or best partner still free; interpolated AP."
    taken, hits = [False] * len(truth), []
    for p in sorted(pred, key=lambda r: -r[4]):
        mine, best = -1, 0.0
        for k, g in enumerate(truth):
            value = overlap(p, g, inclusive)
            if value > best and not (second_choice and taken[k]):
                mine, best = k, value
        hit = mine >= 0 and best >= tiou and not taken[mine]
        if hit:
            taken[mine] = True
        hits.append(hit)
    total, curve = 0, []
    for i, hit in enumerate(hits):
        total += hit
        curve.append(total / (i + 1))
    envelope, area = 0.0, 0.0
    for precision, hit in zip(reversed(curve), reversed(hits)):
        envelope = max(envelope, precision)
        area += envelope * hit
    return area / len(truth)


def event_map(pred, truth, tiou, mode, column):
    "Mean AP over classes (column 1) or videos (column 0), from rows (video, label, start, end, score)."
    if mode == "swtal":
        truth = [(v, c, s, e - 1) for v, c, s, e, *_ in truth]
    lists = {}
    for side, rows in enumerate((pred, truth)):
        for row in rows:
            lists.setdefault(row[column], ([], []))[side].append(row)
    scores = []
    for p, g in lists.values():
        if mode == "official":
            scores.append(pku_ap(p, g, tiou))
        elif g:
            scores.append(greedy_ap(p, g, tiou, mode == "voc", mode != "voc"))
    return sum(scores) / len(scores)

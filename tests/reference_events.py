"""Detection evaluators in plain loops, one proposal at a time: what the vectorised code is compared with."""


def _by_class_and_video(pred, truth):
    classes = sorted({r[1] for r in pred} | {r[1] for r in truth})
    videos = sorted({r[0] for r in pred} | {r[0] for r in truth})
    return classes, videos


def _overlap(p, g, inclusive):
    if p[0] != g[0] or p[1] != g[1]:
        return 0.0
    inter = min(p[3], g[3]) - max(p[2], g[2]) + inclusive
    hull = max(p[3], g[3]) - min(p[2], g[2]) + inclusive
    return inter / hull if hull > 0 else 0.0


def pku_ap(pred, truth, tiou):
    """Rows (video, label, start, end, score). Remove proposals from the bottom; look at precision only after an attached one has gone."""
    if not pred or not truth:
        return 0.0
    pred = sorted(pred, key=lambda r: r[4])
    attached = []
    for p in pred:
        mine, best = None, tiou
        for k, g in enumerate(truth):
            if _overlap(p, g, 0) >= best:
                mine, best = k, _overlap(p, g, 0)
        attached.append(mine)
    found = lambda rest: len({k for k in rest if k is not None})
    envelope, recall, area = found(attached) / len(pred), found(attached) / len(truth), 0.0
    for i, k in enumerate(attached):
        if k is None:
            continue
        rest = attached[i + 1:]
        envelope = max(envelope, found(rest) / len(rest) if rest else 0.0)
        area += envelope * (recall - found(rest) / len(truth))
        recall = found(rest) / len(truth)
    return area


def greedy_ap(pred, truth, tiou, inclusive=0, second_choice=True):
    """Interpolated AP; a proposal whose best truth is taken is lost (VOC), or may take the next best (ActivityNet)."""
    if not pred:
        return 0.0
    taken, hits = set(), []
    for p in sorted(pred, key=lambda r: -r[4]):
        partners = sorted((-_overlap(p, g, inclusive), k) for k, g in enumerate(truth))
        partners = [k for v, k in partners if -v >= tiou]
        if not second_choice:
            partners = partners[:1]
        free = [k for k in partners if k not in taken]
        taken.update(free[:1])
        hits.append(bool(free))
    precision = [sum(hits[:i + 1]) / (i + 1) for i in range(len(hits))]
    return sum(max(precision[i:]) for i, hit in enumerate(hits) if hit) / len(truth)


def hits(pred, truth, tiou, mode):
    """True events that are found: by the best partner (several proposals may share one) or by the best one still free."""
    grow = {"voc": 1}.get(mode, 0)
    found = set()
    for p in sorted(pred, key=lambda r: -r[4]):
        partners = sorted((-_overlap(p, g, grow), -k if mode == "official" else k) for k, g in enumerate(truth))
        partners = [abs(k) for v, k in partners if -v >= tiou]
        if mode in ("official", "voc"):
            found.update(partners[:1])
        else:
            found.update([k for k in partners if k not in found][:1])
    return len(found)


def event_map(pred, truth, tiou, mode):
    """All numbers of `skelnb.evaluation.events.event_map` from lists of rows (video, label, start, end, score)."""
    classes, videos = _by_class_and_video(pred, truth)
    if mode == "swtal":
        truth = [(v, c, s, e - 1, q) for v, c, s, e, q in truth]
    ap = {"official": pku_ap, "voc": lambda p, g, t: greedy_ap(p, g, t, 1, False)}.get(mode, greedy_ap)
    out = {}
    for name, column, names in (("per_class", 1, classes), ("per_video", 0, videos)):
        parts = {x: ([r for r in pred if r[column] == x], [r for r in truth if r[column] == x]) for x in names}
        out[name] = {x: ap(p, g, tiou) for x, (p, g) in parts.items() if g or mode == "official"}
    out["map_a"], out["map_v"] = (sum(out[k].values()) / max(len(out[k]), 1) for k in ("per_class", "per_video"))
    n, m, found = len(pred), len(truth), hits(pred, truth, tiou, mode)
    pooled = sorted(pred, key=lambda r: r[1]) if mode == "official" else pred
    return out | {"pooled": ap(pooled, truth, tiou), "hits": found, "f1": 2 * found / max(n + m, 1), "precision": found / max(n, 1),
                  "recall": found / max(m, 1)}


def nms(start, end, score, threshold, official):
    """Greedy, one proposal at a time, whatever is kept compared with whatever is left."""
    order = sorted(range(len(score)), key=lambda k: (-score[k], -k if official else k))
    kept = []
    for k in order:
        covered = False
        for b in kept:
            inter = max(min(end[b], end[k]) - max(start[b], start[k]) + official, 0)
            other = end[k] - start[k] + official
            whole = other if official else other + end[b] - start[b] - inter
            covered |= inter > threshold * whole
        if not covered:
            kept.append(k)
    return kept

import statistics

STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}


def gain(rows: list[tuple[str, int, int, float]], kind: str, small: int, large: int) -> tuple[float, float]:
    score = {(batch, seed): score for k, batch, seed, score in rows if k == kind}
    seeds = sorted(seed for batch, seed in score if batch == small)
    differences = [score[large, seed] - score[small, seed] for seed in seeds]
    return statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5


def verdict(mean: float, error: float, seeds: int) -> str:
    if abs(mean) <= STUDENT[seeds] * error:
        return "cannot say"
    return "better" if mean > 0 else "worse"


def conclusion(rows: list[tuple[str, int, int, float]], kind: str) -> tuple[list[int], float]:
    sizes = sorted({batch for k, batch, _, _ in rows if k == kind})
    seeds = len({seed for k, _, seed, _ in rows if k == kind})
    mean = {size: statistics.mean(row[3] for row in rows if row[:2] == (kind, size)) for size in sizes}
    best = max(sizes, key=lambda size: mean[size])
    may_be = [size for size in sizes if verdict(*gain(rows, kind, size, best), seeds) == "cannot say"]
    return may_be, mean[best] - mean[sizes[0]]

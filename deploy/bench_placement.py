#!/usr/bin/env python3
"""Every policy on every case of a directory, judged by that directory's own checker.

bench_placement.py SIM DIR [POLICY...]     DIR has check_schedule.py and open/CASE/{cluster,jobs}.csv
"""

import collections
import json
import os
import subprocess
import sys

# The best mean and the size-ordered policy's 99th percentile in hours that published baselines reach on a family
# of cases, oracles included, how far above the best mean is good enough, and a mean that no schedule goes below.
BARS = {
    "gavel12_high": (16.74, 201.74, 1.05, 14.18),
    "gavel12_low": (14.51, 147.04, 1.05, 14.18),
    "gavel12_med": (15.53, 173.97, 1.05, 14.18),
    "gavel12_over": (20.46, 428.80, 1.05, 14.56),
    "gavelmulti16_med": (19.10, 250.45, 1.05, 15.55),
    "lab_high": (5.61, 90.75, 1.00, 2.99),
    "lab_low": (4.15, 64.22, 1.00, 2.23),
    "lab_med": (3.34, 38.52, 1.00, 1.67),
    "philly_A_w4": (11.51, 168.00, 1.05, 10.48),
    "philly_B_w1": (29.91, 303.45, 1.05, 24.50),
}
TAIL, FAIR, WORST, RESTARTS = 1.10, 0.90, 2.0, 1.0


def run(sim, root, case, policy, folder):
    """What the checker says of one policy on one case."""
    out = os.path.join(folder, f"{case}.{policy}.csv")
    directory = os.path.join(root, "open", case)
    subprocess.run([sim, "--case", directory, "--policy", policy, "--out", out], check=True, stdout=subprocess.DEVNULL)
    checker = [sys.executable, os.path.join(root, "check_schedule.py"), directory, out]
    return json.loads(subprocess.run(checker, check=True, capture_output=True, text=True).stdout)


def family(case):
    """A case's name without its seed."""
    return next((name for name in BARS if case == name or case.startswith(name + "_s")), case)


def verdicts(name, figures):
    """Which bars a family's mean figures hold."""
    if name not in BARS:
        return ""
    best, tail, slack, bound = BARS[name]
    held = {"mean": figures["avg_jct_h"] <= best * slack, "p99": figures["p99_jct_h"] <= tail * TAIL}
    held["restarts"] = figures["restarts"] <= RESTARTS
    if name.startswith("lab"):
        held["Jain"] = figures["jain_user_slowdown"] >= FAIR
        held["worst"] = figures["worst"] <= WORST
    missed = [bar for bar, is_held in held.items() if not is_held]
    gap = figures["avg_jct_h"] / bound
    return f"bar {best * slack:.2f} / {tail * TAIL:.1f}, bound x {gap:.2f}: " + ("held" if not missed else "MISSED " + ", ".join(missed))


def main():
    sim, root = sys.argv[1:3]
    policies = sys.argv[3:] or ["fifo", "fair", "finish-time"]
    folder = os.path.join("target", "placement")
    os.makedirs(folder, exist_ok=True)
    cases = sorted(os.listdir(os.path.join(root, "open")))
    print(f"{'cases':18} {'policy':12} {'mean h':>7} {'p95':>7} {'p99':>7} {'Jain':>6} {'worst':>6} {'restarts':>8}")
    families = collections.defaultdict(list)
    for case in cases:
        families[family(case)].append(case)
    for name, members in families.items():
        for policy in policies:
            sums = collections.Counter()
            for case in members:
                figures = run(sim, root, case, policy, folder)
                figures["worst"] = figures["worst_user_slowdown"] / figures["avg_slowdown"]
                figures["restarts"] /= figures["jobs"]
                for key in ("avg_jct_h", "p95_jct_h", "p99_jct_h", "jain_user_slowdown", "worst", "restarts"):
                    sums[key] += figures[key] / len(members)
            columns = (sums["avg_jct_h"], sums["p95_jct_h"], sums["p99_jct_h"])
            print(
                f"{name:18} {policy:12} " + " ".join(f"{value:7.2f}" for value in columns)
                + f" {sums['jain_user_slowdown']:6.3f} {sums['worst']:6.2f} {sums['restarts']:8.2f}  {verdicts(name, sums)}",
                flush=True,
            )


if __name__ == "__main__":
    main()

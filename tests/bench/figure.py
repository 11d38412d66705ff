#!/usr/bin/env python3
"""Turns measurements into the JSON line of a figure.

usage: figure.py --bench NAME --metric NAME --unit UNIT [--case NAME] [--pairs-min N] [--names A,B] [--also K=V,...]

Each line of standard input is one measurement: two numbers, ours and the other's, of which the ratio counts and
whose own medians are printed beside it under --names; or a single number. Fewer than --pairs-min is an error. What --also
names is added to the line as it is.
"""

import argparse
import json
import statistics
import sys


def quartiles(values):
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def rounded(value):
    return float(f"{value:.4g}")


def also(text):
    fields = dict(field.split("=", 1) for field in text.split(",") if field)
    return {name: float(value) if value.replace(".", "", 1).isdigit() else value for name, value in fields.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", required=True)
    parser.add_argument("--metric", required=True)
    parser.add_argument("--unit", required=True)
    parser.add_argument("--case")
    parser.add_argument("--pairs-min", type=int, default=5)
    parser.add_argument("--names", default="ours,other")
    parser.add_argument("--also", default="")
    args = parser.parse_args()

    rows = [[float(number) for number in line.split()] for line in sys.stdin if line.strip()]
    figure = {"bench": args.bench, "metric": args.metric}
    if args.case:
        figure["case"] = args.case
    figure |= also(args.also)
    if len(rows) < args.pairs_min:
        figure["error"] = f"{len(rows)} measurements, fewer than {args.pairs_min}"
        print(json.dumps(figure))
        return 1

    values = [row[0] / row[1] if len(row) == 2 else row[0] for row in rows]
    low, high = quartiles(values)
    figure |= {"value": rounded(statistics.median(values)), "unit": args.unit, "n": len(values),
               "p25": rounded(low), "p75": rounded(high)}
    if len(rows[0]) == 2:
        for name, column in zip(args.names.split(","), zip(*rows)):
            figure[name] = rounded(statistics.median(column))
    print(json.dumps(figure), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

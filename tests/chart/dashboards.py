#!/usr/bin/env python3
"""Holds the chart's dashboards and rules against running nodes.

usage: dashboards.py CHART metrics METRICS_FILE       what a panel or rule names is exported by a node
       dashboards.py CHART queries PROMETHEUS_URL N   a Prometheus that scrapes N nodes answers every query
       dashboards.py CHART moves PROMETHEUS_URL LIST  what a panel or rule names has moved since Prometheus started, but
                                                      for what stands in LIST: a name and why, to a line

A panel's query must give at least one number, which NaN and infinities are not, and a rule's none of its errors. Exits
with 1 and says where if not.
"""

import json
import math
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

# What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$__range": "1m", "$job": ".*", "$instance": ".*"}
SECONDS_MAX = 30
METRIC = re.compile(r"(?<![\w:])sluice_\w+(?![\w:])")  # a name that is recorded by a rule has colons
HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")


def panels_of(dashboard):
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def panel_queries(chart):
    """(where, expression) for each query of each panel, and for those that fill the variables' lists."""
    for path in sorted((chart / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        for panel in panels_of(dashboard):
            for target in panel.get("targets", []):
                yield f"{path.name}: {panel['title']}", target["expr"]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                selector = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                yield f"{path.name}: variable {variable['name']}", f"count by ({selector[2]}) ({selector[1]})"


def rule_queries(chart, kinds=("alert", "record")):
    """(where, expression) for each rule of these kinds."""
    for path in sorted((chart / "rules").glob("*.yaml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                kind = "alert" if "alert" in rule else "record"
                if kind in kinds:
                    yield f"{path.name}: {rule[kind]}", rule["expr"]


def overlap(a, b):
    return (a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and
            a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"])


def check_layout(chart):
    for path in sorted((chart / "dashboards").glob("*.json")):
        panels = list(panels_of(json.loads(path.read_text(encoding="utf-8"))))
        ids = [panel["id"] for panel in panels]
        if len(ids) != len(set(ids)):
            yield f"{path.name}: two panels have one id"
        for i, panel in enumerate(panels):
            if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24:
                yield f"{path.name}: {panel['title']} is wider than the page"
            if panel["type"] != "row" and not (panel.get("targets") and panel.get("description")):
                yield f"{path.name}: {panel['title']} has no query or no description"
            for other in panels[:i]:
                if overlap(panel["gridPos"], other["gridPos"]):
                    yield f"{path.name}: {panel['title']} lies over {other['title']}"


def exported(metrics_file):
    """The names of the series of the text format, histograms in their parts."""
    names = set()
    for line in pathlib.Path(metrics_file).read_text(encoding="utf-8").splitlines():
        declared = re.fullmatch(r"# TYPE (\S+) (\w+)", line)
        if declared and declared[2] == "histogram":
            names.update(declared[1] + part for part in HISTOGRAM_PARTS)
        elif declared:
            names.add(declared[1])
    return names


def check_runbooks(chart):
    headings = re.findall(r"^### (\w+)$", (chart / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    for path in sorted((chart / "rules").glob("*.yaml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                if "alert" in rule and (rule["alert"] not in headings or rule["annotations"].get("runbook") !=
                                        f"charts/sluice/README.md#{rule['alert'].lower()}"):
                    yield f"{path.name}: {rule['alert']} has no runbook in the chart's README"


def check_metrics(chart, metrics_file):
    names = exported(metrics_file)
    queries = list(panel_queries(chart)) + list(rule_queries(chart))
    if not names or not queries:
        yield "there are no metrics or no queries"
    for where, expression in queries:
        for name in METRIC.findall(expression):
            if name not in names:
                yield f"{where}: no node exports {name}"


def ask(url, expression):
    """The result's type and series. Errors: RuntimeError with what Prometheus says."""
    query = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?{query}", timeout=10) as response:
            data = json.load(response)["data"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(json.load(error).get("error", error.reason)) from error
    return data["resultType"], data["result"]


def wait_for_nodes(url, count):
    """Until every node was scraped several times, as a rate needs two samples, and once more from now on."""
    scraped = f"count_over_time(sluice_build_info[1m]) >= 4 and timestamp(sluice_build_info) > {time.time()}"
    end = time.monotonic() + SECONDS_MAX
    while time.monotonic() < end:
        _, series = ask(url, scraped)
        if len(series) == count:
            return True
        time.sleep(0.2)
    return False


def check_queries(chart, url, count):
    if not wait_for_nodes(url, count):
        yield f"Prometheus does not see {count} nodes"
        return
    for where, expression in panel_queries(chart):
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        try:
            if "$" in expression:
                raise RuntimeError("a variable that nothing fills")
            kind, series = ask(url, expression)
            if kind != "vector" or not series:
                raise RuntimeError(f"gives {len(series)} series of type {kind}")
            values = [one["value"][1] for one in series]
            if not any(math.isfinite(float(value)) for value in values):
                raise RuntimeError(f"gives no number but {', '.join(sorted(set(values)))}")
        except RuntimeError as error:
            yield f"{where}: {error}: {expression}"
    alerts = {where for where, _ in rule_queries(chart, ("alert",))}
    for where, expression in rule_queries(chart):
        try:
            _, series = ask(url, expression)
            if series and where in alerts:
                raise RuntimeError(f"fires for nodes that are well: {series}")
        except RuntimeError as error:
            yield f"{where}: {error}: {expression}"


def names_of(chart):
    return {name for _, expression in list(panel_queries(chart)) + list(rule_queries(chart))
            for name in METRIC.findall(expression)}


def check_moves(chart, url, list_file):
    lines = [line.split(maxsplit=1) for line in pathlib.Path(list_file).read_text(encoding="utf-8").splitlines()
             if line and not line.startswith("#")]
    listed = {words[0] for words in lines}
    yield from (f"{words[0]} is listed without a reason" for words in lines if len(words) < 2)
    names = names_of(chart)
    yield from (f"{name} is listed, and no panel or rule names it" for name in sorted(listed - names))
    for name in sorted(names - listed):
        _, series = ask(url, f"max(max_over_time({name}[1h]) - min_over_time({name}[1h]))")
        if not series or float(series[0]["value"][1]) <= 0:
            yield f"{name} did not move"


def main():
    chart, what, *rest = sys.argv[1:]
    chart = pathlib.Path(chart)
    complaints = list(check_layout(chart)) + list(check_runbooks(chart))
    if what == "metrics":
        complaints += check_metrics(chart, rest[0])
    elif what == "moves":
        complaints += check_moves(chart, *rest)
    else:
        complaints += check_queries(chart, rest[0], int(rest[1]))
    print("\n".join(complaints), end="\n" if complaints else "")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())

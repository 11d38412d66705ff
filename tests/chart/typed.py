"""Writes what Helm rendered as TypeScript, each object with the type of its kind, and as a script that validates it.

usage: typed.py RENDERED FOLDER NAME: makes FOLDER/NAME.ts and FOLDER/NAME.mjs, an object a line.

The types know every field, so that a wrong one or a misspelt one is an error; the script knows patterns and bounds.
"""
import json
import pathlib
import sys

import yaml

# Where the types of a group are that is not Kubernetes' own.
PACKAGES = {
    "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
    "cert-manager.io": "@kubernetes-models/cert-manager",
}


def module_of(thing):
    group = thing["apiVersion"].split("/")[0]
    return f'{PACKAGES.get(group, "kubernetes-models")}/{thing["apiVersion"]}/{thing["kind"]}'


def main(rendered, folder, name):
    with open(rendered, encoding="utf-8") as file:
        things = [thing for thing in yaml.safe_load_all(file) if thing]
    if not things:
        sys.exit(f"typed.py: nothing is in {rendered}")
    types, checks = [], []
    for number, thing in enumerate(things):
        module, kind, text = module_of(thing), thing["kind"], json.dumps(thing)
        # An alias for each object: a kind may be of two groups.
        types.append(f'import type {{I{kind} as T{number}}} from "{module}"; export const o{number}: T{number} = {text};')
        said = json.dumps(f'{name}: {kind} {thing["metadata"]["name"]}: ')
        checks.append(f'import {{{kind} as C{number}}} from "{module}"; '
                      f"try {{ new C{number}({text}).validate(); }} "
                      f"catch (error) {{ console.error({said} + error.message); process.exitCode = 1; }}")
    pathlib.Path(folder, f"{name}.ts").write_text("\n".join(types) + "\n", encoding="utf-8")
    pathlib.Path(folder, f"{name}.mjs").write_text("\n".join(checks) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Behind `make render` and `make manifests-config`: overlays as one YAML file, ConfigMaps from the configuration.

    python -m pipelines.manifests render manifests/overlays/local > build/manifests-local.yaml
    python -m pipelines.manifests config      # rewrites the generated ConfigMaps under manifests/

A test fails where a generated file is not what pipeline_config.yaml says.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path

import yaml

from components.shared.runtime.errors import PixelisError
from components.ttrl.release import CONFIG_MAP, in_cluster
from pipelines.config import compose
from pipelines.kustomize import render

GENERATED = {"twin": "base/ttrl-config.yaml", "gpu-3b": "overlays/gpu/ttrl-config.yaml"}
"""The profile whose `ttrl` section a generated file holds."""


def config_map(profile: str) -> str:
    """The ConfigMap of the service's first start, as YAML; the deployment step brings its own afterwards."""
    section = in_cluster(compose(profile, (), {}).ttrl).model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(section, indent=2, sort_keys=True)
    return (
        f"# Generated from pipeline_config.yaml (profile {profile}) by `make manifests-config`; do not edit.\n"
        f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {CONFIG_MAP}\ndata:\n  ttrl.json: |\n"
        f"{textwrap.indent(text, '    ')}\n"
    )


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.manifests")
    commands = parser.add_subparsers(dest="command", required=True)
    rendering = commands.add_parser("render", help="print an overlay's objects")
    rendering.add_argument("folder", type=Path)
    writing = commands.add_parser("config", help="rewrite the generated ConfigMaps")
    writing.add_argument("--root", type=Path, default=Path("manifests"))
    options = parser.parse_args(argv)
    try:
        if options.command == "render":
            yaml.safe_dump_all(render(options.folder), sys.stdout, sort_keys=False)
        else:
            for profile, name in GENERATED.items():
                (options.root / name).write_text(config_map(profile))
    except PixelisError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

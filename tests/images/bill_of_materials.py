"""Checks a CycloneDX bill of materials: the published schema of its version, and the syntax of its package URLs."""

from __future__ import annotations

import json
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL


def check_bill(bill: dict[str, Any]) -> None:
    """Refuse a bill that breaks a rule.

    Raises:
        ValueError: says which.
    """
    validator = JsonStrictValidator(SchemaVersion.from_version(bill["specVersion"]))
    errors = validator.validate_str(json.dumps(bill), all_errors=True)
    if errors:
        raise ValueError("; ".join(str(error)[:300] for error in errors))
    purls = [PackageURL.from_string(item["purl"]).to_string() for item in bill["components"]]
    if sorted(set(purls)) != sorted(purls):
        raise ValueError("two components have the same package URL")

"""Known vulnerabilities of what constraints.txt pins, as far as PyPI's advisories can be reached.

Exit code 1 for a finding. A service that does not answer is no finding: a line says what could not be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

_COMMAND = ["pip-audit", "--requirement", "constraints.txt", "--no-deps", "--disable-pip", "--format", "json"]
_TIMEOUT_S = 120


def main() -> int:
    """Ask, and say what came of it."""
    command = [*_COMMAND, "--timeout", "10", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)  # noqa: S603
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"audit skipped: no answer in {_TIMEOUT_S} s")
        return 0
    except ValueError:
        print("audit skipped:", (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1])
        return 0
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        print(f"audit: {len(unknown)} of {len(packages)} packages could not be looked up, {unknown[0]} for one")
    findings = [(package, each) for package in packages for each in package.get("vulns", ())]
    for package, each in findings:
        mended = ", ".join(each["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {each['id']}, mended in {mended}")
    print(f"audit: {len(findings)} findings in {len(packages) - len(unknown)} packages")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

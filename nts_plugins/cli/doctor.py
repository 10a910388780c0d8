# SPDX-License-Identifier: Apache-2.0
"""``nts doctor``: what is installed, which backend will run, and one line that fixes each problem."""

import json
from dataclasses import asdict, dataclass
from typing import List

from nts_plugins import __version__
from nts_plugins.cli._checks import Finding, examine

_LABELS = {"ok": "  ok     ", "note": "  note   ", "problem": "  PROBLEM"}


@dataclass
class Doctor:
    """Print what is installed, which backend will run, and one line that fixes each problem found.

    Ends with exit status 0 when training can run on this machine, and 1 when it cannot.
    """

    json: bool = False
    """Print the findings as JSON, for scripts and bug reports."""

    def run(self) -> int:
        """Examine this machine, print the findings, and return the exit status."""
        findings = examine()
        print(as_json(findings) if self.json else as_text(findings))
        return 0 if can_train(findings) else 1


def can_train(findings: List[Finding]) -> bool:
    """Whether nothing was found that keeps training from running."""
    return not any(finding.blocks for finding in findings)


def as_json(findings: List[Finding]) -> str:
    """The findings as a JSON object: version, can_train, findings with name, state, text, fix and blocks."""
    rows = [asdict(finding) for finding in findings]
    return json.dumps({"nts_plugins": __version__, "can_train": can_train(findings), "findings": rows}, indent=2)


def as_text(findings: List[Finding]) -> str:
    """The findings for people: a line each, and below a problem or a note the line that fixes it."""
    width = max(len(finding.name) for finding in findings)
    lines = [f"nts-plugins {__version__}"]
    for finding in findings:
        lines.append(f"{_LABELS[finding.state]}  {finding.name:<{width}}  {finding.text}")
        if finding.fix:
            lines.append(f"{'':<{width + 13}}fix: {finding.fix}")
    problems = sum(finding.state == "problem" for finding in findings)
    verdict = "Training can run here" if can_train(findings) else "Training CANNOT run here"
    advice = {0: "."}.get(problems, f"; {problems} problem{'s' if problems > 1 else ''} to fix, see above.")
    return "\n".join([*lines, verdict + advice])

"""What a command owes when the system refuses it a call: one line, exit 1, nothing half done."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.campaigns.counts import Counts
from tests.campaigns.stages import Undisturbed, last_line

from faceguide.core.files import TEMPORARY

REMEDIES = ("rerun", "again", "restore", "choose another")


@dataclass
class Tally:
    """Adds up what came of each fault of a stage.

    Attributes:
        partial: whether a part of a file may stay, for the next run to continue.
    """

    one: Undisturbed
    partial: bool = False
    injected: int = 0
    survived: int = 0
    lost: int = 0
    doubled: int = 0
    crashes: int = 0
    failures: list[str] = field(default_factory=list)

    def judge(
        self, what: str, status: int | None, said: str, *, where: str, reading: bool = False
    ) -> None:
        """Count one fault: judge the refusal, run the command again, judge what is there.

        Args:
            what: was done, for the list of failures.
            status: that the command ended with, None when it hung.
            said: stdout and stderr of it.
            where: text that the one line must hold: the folder of the file.
            reading: whether a read was refused. The C library reads ahead, and reads again when
                that failed: the command may then end as if nothing had been, its files too.
        """
        self.injected += 1
        unharmed = reading and status == 0
        complaint = "" if unharmed else _complaint(status, said, where)
        self.crashes += status is None or status < 0 or "Traceback" in said
        if not complaint and not self.partial:
            left = [path.name for path in self.one.world.work.rglob(f".*{TEMPORARY}")]
            complaint = f"temporary files are left: {left}" if left else ""
        outcome = self.one.compare() if unharmed else self.one.resume()
        self.lost, self.doubled = self.lost + outcome.lost, self.doubled + outcome.doubled
        self.crashes += outcome.crashed
        faults = [fault for fault in (complaint, outcome.fault) if fault]
        self.survived += not faults
        if faults:
            self.failures.append(f"{what}: {'; '.join(faults)}")

    def counts(self, **details: int) -> Counts:
        """The sums."""
        return Counts(
            self.injected,
            self.survived,
            rows_lost=self.lost,
            rows_doubled=self.doubled,
            crashes=self.crashes,
            details=details,
            failures=tuple(self.failures),
        )


def _complaint(status: int | None, said: str, where: str) -> str:
    """What is wrong with how the command gave up; "" when nothing is."""
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    if status != 1:
        return f"ended with {status}: {last_line(said)}"
    if "Traceback" in said:
        return f"a traceback: {last_line(said)}"
    if len(errors) != 1 or where not in errors[0]:
        return f"no line that names the file: {last_line(said)}"
    if not any(remedy in errors[0] for remedy in REMEDIES):
        return f"no remedy: {errors[0]}"
    return ""

# SPDX-License-Identifier: Apache-2.0
"""report.html: the results of a run, readable in a browser without a network."""

import base64
import functools
import gzip
from pathlib import Path

import jinja2
import plotly.offline

from par_model.output_files import write_text
from par_ros.episode_story import latencies, stories
from par_ros.run_results import RunResults, percentiles

REPORT_FILE = "report.html"


def write_report(results: RunResults, folder: Path) -> Path:
    """Write report.html into `folder`, beside the videos; gives its path.

    Raises ValueError for what the disk refuses.
    """
    path = folder / REPORT_FILE
    write_text("the report", path, report_page(results))
    return path


def summary_rows(results: RunResults) -> list[tuple[str, str]]:
    """(what, value) for the run's final table, on the terminal and on the page."""
    num = len(results.episodes)
    interval = results.success_interval()
    lengths = [episode.steps for episode in results.episodes]
    num_timed = len(results.timed_episodes())
    left_out = f"{num_timed} of {num} episodes, without those that predict pictures too"
    return [
        ("episodes", f"{num} of {results.episodes_asked}"),
        (
            "success",
            f"{results.num_successes} of {num} (95 % interval {interval['low']:.0%} to "
            f"{interval['high']:.0%})",
        ),
        ("episode length", _lengths_text(lengths)),
        ("policy latency", _times_text(results.policy_latency_ms())),
        ("camera stamp to trajectory", _times_text(results.camera_to_trajectory_ms())),
        *([("latencies of", left_out)] if num_timed < num else []),
        *_ledger_rows(results),
        *_smoothness_rows(results),
        ("chunks", str(sum(episode.chunks for episode in results.episodes))),
        ("holds", str(sum(episode.holds for episode in results.episodes))),
        (
            "numbers changed by the guard",
            str(sum(len(episode.guard_changes) for episode in results.episodes)),
        ),
        *_surprise_rows(results),
    ]


def _surprise_rows(results: RunResults) -> list[tuple[str, str]]:
    """What surprise did; nothing where it did nothing."""
    counts = {
        "warnings": sum(episode.surprise_warnings for episode in results.episodes),
        "stops": sum(episode.surprise_stops for episode in results.episodes),
    }
    return [(f"{what} by surprise", str(count)) for what, count in counts.items() if count]


def _ledger_rows(results: RunResults) -> list[tuple[str, str]]:
    """From a picture to what followed from it."""
    ledger = results.ledger()
    rows = [
        (
            f"picture to {what}",
            f"{_times_text_of(ledger[name])}, p99.9 {ledger[name]['p99.9']:.1f} ms",
        )
        for name, what in (("taken", "trajectory taken"), ("effect", "first action of its chunk"))
        if ledger[name]["count"]
    ]
    missed = sum(episode.missed_chunks for episode in results.episodes)
    return [*rows, *([("chunks without the guard's report", str(missed))] if missed else [])]


def _smoothness_rows(results: RunResults) -> list[tuple[str, str]]:
    found = results.smoothness()
    if found["spectral_arc_length"] is None:
        return []
    rows = [
        (
            "smoothness",
            f"spectral arc length {found['spectral_arc_length']:.2f}, log dimensionless jerk "
            f"{found['log_dimensionless_jerk']:.1f}, at rest {found['rest_s']:.2f} of "
            f"{found['moving_s']:.2f} s (medians)",
        )
    ]
    limits = found["limits"]
    if limits["num_chunks"]:
        rows.append(
            (
                "chunks beyond the arm's limits, before the guard",
                f"{limits['beyond']:.1%} of {limits['num_chunks']} (acceleration "
                f"{limits['beyond_acceleration']:.1%}, jerk {limits['beyond_jerk']:.1%})",
            )
        )
    if found["num_seams"]:
        lost, rest = found["seams"]["speed_lost"], found["seams"]["rest_s"]
        jerk, jump = found["seams"]["jerk_rad_s3"], found["seams"]["jump_rad"]
        rows.append(
            (
                f"{found['num_seams']} seams, median (p95)",
                f"speed lost {lost['median']:.0%} ({lost['p95']:.0%}), at rest "
                f"{rest['median']:.2f} s ({rest['p95']:.2f} s), jerk {jerk['median']:.0f} "
                f"({jerk['p95']:.0f}) rad/s³, jump {1e3 * jump['median']:.1f} "
                f"({1e3 * jump['p95']:.1f}) mrad",
            )
        )
    return rows


def report_page(results: RunResults) -> str:
    """The text of report.html; the first call of a process takes about a second."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("par_ros"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page: str = environment.get_template("report.html.j2").render(
        results=results,
        content=results.to_json(),
        summary=summary_rows(results),
        times_text=_times_text,
        drawn={"stories": stories(results), "latencies": latencies(results)},
        packed_plotly=_packed_plotly(),
    )
    return page


@functools.cache
def _packed_plotly() -> str:
    """plotly.js, gzip in base64: 1.9 MB where the text takes 4.7; the page unpacks it."""
    script = gzip.compress(plotly.offline.get_plotlyjs().encode(), mtime=0)
    return base64.b64encode(script).decode("ascii")


def _times_text(times_ms: list[float] | tuple[float, ...]) -> str:
    return _times_text_of(percentiles(times_ms))


def _times_text_of(values: dict[str, float | int | None]) -> str:
    if not values["count"]:
        return "none"
    return f"p50 {values['p50']:.1f} ms, p99 {values['p99']:.1f} ms, worst {values['worst']:.1f} ms"


def _lengths_text(lengths: list[int]) -> str:
    if not lengths:
        return "none"
    mean = sum(lengths) / len(lengths)
    return f"mean {mean:.1f} control steps ({min(lengths)} to {max(lengths)})"

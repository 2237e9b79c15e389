# SPDX-License-Identifier: Apache-2.0
"""A picture at 10 s: arrives 5 ms later, answered from 20 to 50, sent at 51, taken at 60 ms."""

import numpy as np

from par_ros.chunk_ledger import LEDGER_FIELDS, ChunkLedger, ledger_rows

TIMES_S = 0.05 * np.arange(1, 9)


def send(ledger: ChunkLedger, stamp_ns: int) -> None:
    ledger.send(stamp_ns, 10.0, (10.005, 10.02, 10.05, 10.051))


def test_a_chunk_is_reported_once_with_its_first_effect() -> None:
    """60 ms after the picture, the first action that is still due is at 100 ms."""
    ledger = ChunkLedger()
    send(ledger, 7)
    ledger.take(7, 10.06, TIMES_S)
    ledger.take(7, 10.3, TIMES_S)
    (row,) = ledger_rows(ledger.take_new())
    assert len(row) == len(LEDGER_FIELDS)
    np.testing.assert_allclose(np.array(row, dtype=float), [5, 20, 50, 51, 60, 100], atol=1e-6)
    assert ledger.take_new() == ()
    texts = dict(ledger.percentile_texts())
    assert texts["taken_after_picture_ms_p99.9"] == "60.00"
    assert texts["effect_after_picture_ms_p50"] == "100.00"


def test_a_chunk_of_which_nothing_is_left_has_no_effect() -> None:
    ledger = ChunkLedger()
    send(ledger, 7)
    ledger.take(7, 10.9, TIMES_S)
    assert ledger_rows(ledger.take_new())[0][-1] is None
    assert dict(ledger.percentile_texts())["effect_after_picture_ms_p50"] == ""


def test_the_last_chunk_of_an_episode_is_not_missed_in_the_next_one() -> None:
    ledger = ChunkLedger()
    send(ledger, 1)
    ledger.begin_episode()
    send(ledger, 2)
    ledger.take(2, 10.06, TIMES_S)
    assert ledger.num_missed == 0
    assert len(ledger_rows(ledger.take_new())) == 1


def test_a_chunk_without_a_report_is_missed_when_a_later_one_has_one() -> None:
    ledger = ChunkLedger()
    for stamp_ns in (1, 2, 3):
        send(ledger, stamp_ns)
    ledger.take(3, 10.06, TIMES_S)
    assert ledger.num_missed == 2
    ledger.take(2, 10.07, TIMES_S)
    assert len(ledger_rows(ledger.take_new())) == 1
    for stamp_ns in range(10, 30):
        send(ledger, stamp_ns)
    assert ledger.num_missed == 2 + 20 - 8


def test_where_time_does_not_run_at_its_pace_chunks_are_counted_and_their_times_left_out() -> None:
    ledger = ChunkLedger(keeps_times=False)
    send(ledger, 1)
    send(ledger, 2)
    ledger.take(2, 10.06, TIMES_S)
    assert ledger.take_new() == ()
    assert ledger.num_missed == 1


def test_a_report_on_an_operators_chunk_misses_nothing() -> None:
    ledger = ChunkLedger()
    send(ledger, 7)
    assert ledger.take(9, 10.05, TIMES_S) is None
    assert ledger.num_missed == 0
    assert ledger.take(7, 10.06, TIMES_S) is not None

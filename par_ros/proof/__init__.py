# SPDX-License-Identifier: Apache-2.0
"""Proofs of the guard: an oracle, a fuzzer, injected faults.

The oracle shares no curve or limit code with par_ros.control, which it judges.
"""

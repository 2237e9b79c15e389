# SPDX-License-Identifier: Apache-2.0
"""What shows that the guard keeps its word: an oracle, a fuzzer, injected faults.

The oracle shares no curve or limit code with par_ros.control, which it judges.
"""

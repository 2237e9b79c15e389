# SPDX-License-Identifier: Apache-2.0
"""Which token may look at which (paper, section 4.2.4 and Fig. 3).

With 2 text tokens, 2 frame tokens and 2 actions a slot (rows are queries, x may look):

                  T T | O0 O0 A0 A0 | O1 O1 A1 A1
            T     x x |             |
            T     x x |             |
            O0    x x | x  x        |
            O0    x x | x  x        |
            A0,1  x x | x  x  x     |
            A0,2  x x | x  x  x  x  |
            O1    x x | x  x  x  x  | x  x
            O1    x x | x  x  x  x  | x  x
            A1,1  x x | x  x  x  x  | x  x  x
            A1,2  x x | x  x  x  x  | x  x  x  x

Frames see each other fully inside a slot and never their own slot's actions; actions see their
frame (the implicit inverse kinematics) and earlier actions; a slot sees every earlier slot.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TEXT, FRAME, ACTION = 0, 1, 2


@dataclass(frozen=True)
class TokenLayout:
    """What each of S tokens is. All tensors are int64 [S].

    Attributes:
        kinds: TEXT, FRAME or ACTION.
        slots: index of the physical token; -1 for text.
        steps: index of an action in its chunk; 0 elsewhere.
    """

    kinds: Tensor
    slots: Tensor
    steps: Tensor

    def __getitem__(self, part: slice) -> "TokenLayout":
        return TokenLayout(self.kinds[part], self.slots[part], self.steps[part])


@dataclass(frozen=True)
class MaskRules:
    """What may differ from Fig. 3.

    Attributes:
        action_sees_frame: False removes the implicit inverse kinematics.
        history_slots: how many slots, its own included, a query may see; None is all.
        text_joint_with_first_slot: the instruction and slot 0 see each other [NOVA].
    """

    action_sees_frame: bool = True
    history_slots: int | None = None
    text_joint_with_first_slot: bool = False

    @property
    def is_figure_3(self) -> bool:
        return self == MaskRules()


def token_layout(
    num_text_tokens: int, num_slots: int, num_frame_tokens: int, num_actions: int
) -> TokenLayout:
    """The layout of [text; P_0; P_1; ...], each P_n = [frame tokens; actions]."""
    slot_kinds = torch.tensor([FRAME] * num_frame_tokens + [ACTION] * num_actions)
    slot_steps = torch.cat((torch.zeros(num_frame_tokens), torch.arange(num_actions)))
    text = torch.zeros(num_text_tokens, dtype=torch.int64)
    slots = torch.arange(num_slots).repeat_interleave(num_frame_tokens + num_actions)
    return TokenLayout(
        kinds=torch.cat((text + TEXT, slot_kinds.repeat(num_slots))).long(),
        slots=torch.cat((text - 1, slots)).long(),
        steps=torch.cat((text, slot_steps.repeat(num_slots))).long(),
    )


def causal_mask(queries: TokenLayout, keys: TokenLayout, rules: MaskRules) -> Tensor:
    """bool [number of queries, number of keys], True where the query may look."""
    query_kind, key_kind = queries.kinds[:, None], keys.kinds[None, :]
    query_slot, key_slot = queries.slots[:, None], keys.slots[None, :]
    query_step, key_step = queries.steps[:, None], keys.steps[None, :]

    to_text = key_kind == TEXT
    from_physical = query_kind != TEXT
    earlier_slot = from_physical & ~to_text & (key_slot < query_slot)
    if rules.history_slots is not None:
        earlier_slot &= key_slot > query_slot - rules.history_slots
    same_slot = from_physical & (key_slot == query_slot)
    frame_to_frame = same_slot & (query_kind == FRAME) & (key_kind == FRAME)
    action_to_action = (
        same_slot & (query_kind == ACTION) & (key_kind == ACTION) & (key_step <= query_step)
    )
    mask = to_text | earlier_slot | frame_to_frame | action_to_action
    if rules.action_sees_frame:
        mask |= same_slot & (query_kind == ACTION) & (key_kind == FRAME)
    if rules.text_joint_with_first_slot:
        mask |= (query_kind == TEXT) & (key_slot == 0)
    return mask

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from enginery.enginecore import EngineCoreRequest, KVLedger, Request
from support.properties import steady


def request(tokens, name="a", salt=None) -> Request:
    made = EngineCoreRequest(name, list(tokens), cache_salt=salt)
    return Request.of(made, 10_000, (0.0, 0))


def computed(ledger, one) -> None:
    """All its tokens are computed now."""
    one.num_computed_tokens = one.num_tokens
    ledger.note_full(one)


def test_a_request_gets_blocks_for_all_its_tokens() -> None:
    ledger = KVLedger(8, 4)
    one = request(range(9))
    assert ledger.admit(one)
    assert len(one.block_ids) == 3
    assert one.room == 12
    assert ledger.num_used == 3


def test_too_few_blocks_change_nothing() -> None:
    ledger = KVLedger(2, 4)
    one = request(range(9))
    assert not ledger.admit(one)
    assert (ledger.num_free, one.block_ids, one.room) == (2, [], 0)
    one = request(range(8))
    assert ledger.admit(one)
    one.token_ids.append(1)
    assert not ledger.grow(one)
    assert len(one.block_ids) == 2


def test_equal_prefixes_share_blocks_while_the_first_still_runs() -> None:
    ledger = KVLedger(16, 4)
    one, two = request(range(12)), request(range(12), "b")
    ledger.admit(one)
    computed(ledger, one)
    ledger.admit(two)
    assert two.num_computed_tokens == 8  # the last block holds the token that must be computed
    assert two.block_ids[:2] == one.block_ids[:2]
    assert two.block_ids[2] != one.block_ids[2]
    assert ledger.num_used == 4
    assert (ledger.lookups, ledger.hits) == (24, 8)


def test_a_prefix_is_found_after_its_request_is_gone() -> None:
    ledger = KVLedger(4, 4)
    one, two = request(range(9)), request(range(9), "b")
    ledger.admit(one)
    computed(ledger, one)
    ledger.free(one)
    assert ledger.num_used == 0
    assert ledger.admit(two)
    assert two.num_computed_tokens == 8


def test_what_is_not_computed_is_never_found() -> None:
    ledger = KVLedger(8, 4)
    one, two = request(range(9)), request(range(9), "b")
    ledger.admit(one)
    one.num_computed_tokens = 5
    ledger.note_full(one)
    ledger.admit(two)
    assert two.num_computed_tokens == 4


def test_blocks_with_equal_tokens_but_another_beginning_are_not_shared() -> None:
    ledger = KVLedger(16, 4)
    one, two = request([1, 1, 1, 1, 5, 5, 5, 5, 0]), request([2, 2, 2, 2, 5, 5, 5, 5, 0], "b")
    ledger.admit(one)
    computed(ledger, one)
    ledger.admit(two)
    assert two.num_computed_tokens == 0


@pytest.mark.parametrize(("salts", "found"), [(("x", "x"), 4), (("x", "y"), 0), (("x", None), 0)])
def test_a_prefix_is_shared_only_with_the_same_salt(salts, found) -> None:
    ledger = KVLedger(8, 4)
    one, two = request(range(6), salt=salts[0]), request(range(6), "b", salt=salts[1])
    ledger.admit(one)
    computed(ledger, one)
    ledger.admit(two)
    assert two.num_computed_tokens == found


def test_without_prefix_caching_nothing_is_found() -> None:
    ledger = KVLedger(8, 4, prefix_caching=False)
    one, two = request(range(9)), request(range(9), "b")
    ledger.admit(one)
    computed(ledger, one)
    ledger.admit(two)
    assert two.num_computed_tokens == 0
    assert ledger.num_cached == 0


def test_the_oldest_prefix_makes_room_and_its_end_before_its_beginning() -> None:
    ledger = KVLedger(4, 4)
    old, new = request(range(8)), request(range(100, 108), "b")
    for one in (old, new):
        ledger.admit(one)
        computed(ledger, one)
        ledger.free(one)
    ledger.admit(request(range(200, 204), "c"))
    again = request(range(9), "d")
    assert ledger.admit(again)
    assert again.num_computed_tokens == 4  # its second block was taken, its first not


def test_blocks_without_a_prefix_are_taken_before_cached_ones() -> None:
    ledger = KVLedger(4, 4)
    one, other = request(range(8)), request(range(50, 53), "b")
    ledger.admit(one)
    computed(ledger, one)
    ledger.free(one)
    ledger.admit(other)
    ledger.free(other)
    ledger.admit(request(range(60, 68), "c"))
    assert ledger.num_cached == 2


def test_a_cached_block_that_is_taken_is_not_counted_as_free_too() -> None:
    ledger = KVLedger(2, 4)
    one = request(range(8))
    ledger.admit(one)
    computed(ledger, one)
    ledger.free(one)
    two = request([*range(4), 9, 9, 9, 9, 9], "b")  # needs 1 cached and 2 others; there is 1
    assert not ledger.admit(two)
    assert ledger.num_free == 2


def test_reset_forgets_prefixes_but_not_while_a_block_is_in_use() -> None:
    ledger = KVLedger(8, 4)
    one = request(range(9))
    ledger.admit(one)
    computed(ledger, one)
    assert not ledger.reset()
    assert ledger.num_cached == 2
    ledger.free(one)
    assert ledger.reset()
    assert ledger.num_cached == 0
    two = request(range(9), "b")
    ledger.admit(two)
    assert two.num_computed_tokens == 0


def test_freeing_twice_changes_nothing() -> None:
    ledger = KVLedger(4, 4)
    one, two = request(range(5)), request(range(50, 55), "b")
    ledger.admit(one)
    ledger.free(one)
    ledger.admit(two)
    ledger.free(one)
    assert ledger.num_used == 2


@pytest.mark.parametrize(("blocks", "size"), [(0, 4), (4, 0)])
def test_a_ledger_has_at_least_one_block_of_one_token(blocks, size) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        KVLedger(blocks, size)


class Ledgers(RuleBasedStateMachine):
    """Requests of two alphabets come, grow and go; whatever the ledger says must be true."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = KVLedger(10, 4)
        self.held: list[Request] = []
        self.numbers = 0

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=20))
    def admit(self, tokens) -> None:
        one = request(tokens, f"r{self.numbers}")
        self.numbers += 1
        before = self.ledger.num_free
        if self.ledger.admit(one):
            assert one.num_computed_tokens < len(tokens)
            self.held.append(one)
        else:
            assert self.ledger.num_free == before

    @precondition(lambda self: self.held)
    @rule(data=st.data(), token=st.integers(0, 1))
    def extend(self, data, token) -> None:
        one = data.draw(st.sampled_from(self.held))
        one.num_computed_tokens = one.num_tokens
        if one.num_computed_tokens >= one.next_hash_at:
            self.ledger.note_full(one)
        one.token_ids.append(token)
        if one.num_tokens > one.room and not self.ledger.grow(one):
            self.ledger.free(one)
            self.held.remove(one)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def drop(self, data) -> None:
        one = data.draw(st.sampled_from(self.held))
        self.held.remove(one)
        self.ledger.free(one)

    @rule()
    def reset(self) -> None:
        assert self.ledger.reset() == (not self.held)

    @invariant()
    def used_and_free_are_all_and_used_are_those_that_somebody_has(self) -> None:
        used = {block for one in self.held for block in one.block_ids}
        assert self.ledger.num_used == len(used)
        assert self.ledger.num_used + self.ledger.num_free == 10

    @invariant()
    def a_shared_block_holds_the_same_tokens_after_the_same_beginning(self) -> None:
        owners: dict[int, tuple] = {}
        for one in self.held:
            assert len(set(one.block_ids)) == len(one.block_ids)
            for number, block in enumerate(one.block_ids):
                prefix = tuple(one.token_ids[: (number + 1) * 4])
                assert owners.setdefault(block, prefix) == prefix

    @invariant()
    def everybody_has_room_for_his_tokens(self) -> None:
        assert all(one.num_tokens <= len(one.block_ids) * 4 for one in self.held)


Ledgers.TestCase.settings = settings(steady, max_examples=60)
test_the_ledger_is_true_whatever_comes_and_goes = Ledgers.TestCase


@settings(steady, max_examples=50)
@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=40))
def test_free_after_use_is_all_that_there_was(tokens) -> None:
    ledger = KVLedger(10, 4)
    one = request(tokens)
    assert ledger.admit(one)
    computed(ledger, one)
    ledger.free(one)
    assert ledger.num_free == 10


def test_a_request_that_waits_for_blocks_is_hashed_once() -> None:
    ledger = KVLedger(6, 4)
    one, two = request(range(20)), request(range(20), "b")
    ledger.admit(one)
    one.num_computed_tokens = 8
    ledger.note_full(one)
    two.cache_salt = "other"
    assert not ledger.admit(two)
    hashes = list(two.block_hashes)
    assert len(hashes) == 4
    assert not ledger.admit(two)
    assert all(a is b for a, b in zip(two.block_hashes, hashes, strict=True))
    ledger.free(one)
    assert ledger.admit(two)
    assert two.num_computed_tokens == 0

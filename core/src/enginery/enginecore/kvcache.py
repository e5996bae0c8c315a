"""The paged KV ledger: which block of the cache belongs to whom, and which can be shared.

Knows: block numbers, how many requests use each, and the hash of what a full block holds. Does not
know: the keys and values themselves (the executor has them), or whose turn it is.

A block holds ``block_size`` tokens. Its hash covers its tokens and, through its predecessor's hash, all
tokens before it, so that equal hashes mean equal prefixes (vLLM's automatic prefix caching). A block
that nobody uses keeps its hash and can be taken again by it, until it is needed for something else:
blocks without a hash go first, then the least recently used, the end of a prefix before its beginning.

    free      in `_free`, count 0     ── admit, grow ──▶  used   not in `_free`, count ≥ 1
    used      ── free, last user ──▶  free, and cached if it has a hash
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from hashlib import blake2b

from enginery.enginecore.request import Request

__all__ = ["KVLedger"]

_HASH_BYTES = 16  # 128 bits: a collision would hand one request another's context


class KVLedger:
    """Owner of the block numbers. Pure: no memory is touched.

    Args:
        num_blocks: blocks in the cache, at least 1.
        block_size: tokens per block, at least 1.
        prefix_caching: share blocks with equal prefixes.
    """

    def __init__(
        self, num_blocks: int, block_size: int = 16, *, prefix_caching: bool = True
    ) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError("num_blocks and block_size must be at least 1")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.lookups = 0
        """Tokens that were looked for in the prefix cache; `hits` of them were found."""
        self.hits = 0
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._users = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody uses; some hold a prefix that can be found."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks that at least one request uses."""
        return self.num_blocks - len(self._free)

    @property
    def num_cached(self) -> int:
        """Blocks that can be found by their prefix."""
        return len(self._block_of)

    def admit(self, request: Request) -> bool:
        """Give a request blocks for all its tokens, cached ones for as much of its beginning as are there.

        Sets ``num_computed_tokens`` to what is cached: always less than all, for the last token must be
        computed to be continued. Returns False, and changes nothing, if there are too few blocks.
        """
        length = len(request.token_ids)
        cached = self._find(request) if self.prefix_caching else []
        wanted = -(-length // self.block_size) - len(cached)
        idle = sum(1 for block in cached if not self._users[block])
        if wanted > len(self._free) - idle:
            return False
        for block in cached:
            if not self._users[block]:
                del self._free[block]
            self._users[block] += 1
        request.block_ids = cached + [self._take() for _ in range(wanted)]
        request.num_hashed_blocks = len(cached)
        request.room = len(request.block_ids) * self.block_size
        request.num_computed_tokens = len(cached) * self.block_size
        request.next_hash_at = request.num_computed_tokens + self.block_size
        self.lookups += length
        self.hits += request.num_computed_tokens
        return True

    def grow(self, request: Request) -> bool:
        """Give a running request blocks for all its tokens; False, and no change, if there are too few."""
        wanted = -(-len(request.token_ids) // self.block_size) - len(request.block_ids)
        if wanted > len(self._free):
            return False
        for _ in range(wanted):
            request.block_ids.append(self._take())
        request.room = len(request.block_ids) * self.block_size
        return True

    def note_full(self, request: Request) -> None:
        """Hash the blocks that are full and computed by now, so that others can find them."""
        size = self.block_size
        if not self.prefix_caching:
            request.next_hash_at = 1 << 62  # never
            return
        full = request.num_computed_tokens // size
        hashes = self._hashes(request, full)
        for number in range(request.num_hashed_blocks, full):
            key, block = hashes[number], request.block_ids[number]
            if key not in self._block_of:
                self._block_of[key] = block
                self._hash_of[block] = key
        request.num_hashed_blocks = full
        request.next_hash_at = (full + 1) * size

    def free(self, request: Request) -> None:
        """Take all blocks from a request. Those with a hash stay findable. Idempotent."""
        for block in reversed(request.block_ids):
            self._users[block] -= 1
            if self._users[block] == 0:
                self._free[block] = None
                if self._hash_of[block] is None:
                    self._free.move_to_end(block, last=False)
        request.block_ids = []
        request.num_hashed_blocks = 0
        request.room = 0
        request.num_computed_tokens = 0
        request.next_hash_at = 0

    def reset(self) -> bool:
        """Forget every prefix; False, and no change, while a block is in use."""
        if self.num_used:
            return False
        self._block_of.clear()
        self._hash_of = [None] * self.num_blocks
        return True

    def _find(self, request: Request) -> list[int]:
        blocks: list[int] = []
        most = (len(request.token_ids) - 1) // self.block_size
        for key in self._hashes(request, most)[:most]:
            block = self._block_of.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _hashes(self, request: Request, count: int) -> list[bytes]:
        """At least the first ``count`` hashes; made once, for tokens are only ever appended."""
        hashes, tokens, size = request.block_hashes, request.token_ids, self.block_size
        for number in range(len(hashes), count):
            parent = hashes[-1] if hashes else _root(request.cache_salt)
            hashes.append(_hash(parent, tokens[number * size : (number + 1) * size]))
        return hashes

    def _take(self) -> int:
        block, _ = self._free.popitem(last=False)
        key = self._hash_of[block]
        if key is not None:
            del self._block_of[key]
            self._hash_of[block] = None
        self._users[block] = 1
        return block


def _root(salt: str | None) -> bytes:
    return b"" if salt is None else blake2b(salt.encode(), digest_size=_HASH_BYTES).digest()


def _hash(parent: bytes, tokens: list[int]) -> bytes:
    return blake2b(parent + array("q", tokens).tobytes(), digest_size=_HASH_BYTES).digest()

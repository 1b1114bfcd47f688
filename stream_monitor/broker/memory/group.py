"""Consumer groups in memory: who holds which partition, in which generation.

The rebalance is Kafka's cooperative one, made deterministic. A change of membership opens a rebalance; every member
joins it with its next poll and meanwhile keeps what it holds; the last one to join closes it with a new generation.
Nobody is given a partition that another still holds: its holder first learns (by polling) that it is revoked, which
opens the next rebalance, and that one hands it over. No clock: a member that does not poll holds everybody up until it
is expelled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from stream_monitor.broker.protocol import TopicPartition
from stream_monitor.errors import Fenced, TransactionAborted

Partitions = frozenset[TopicPartition]
_NONE: Partitions = frozenset()


@dataclass(slots=True, eq=False)
class Seat:
    """A member's place in its group, held by one consumer; a namesake gets another seat and this one is fenced."""

    instance: str
    topics: frozenset[str]
    held: Partitions = _NONE
    generation: int = -1
    joined: bool = False


@dataclass(frozen=True, slots=True)
class MemoryMember:
    """Proof of membership: the seat, as of one generation."""

    group: str
    generation: int
    seat: Seat


@dataclass(frozen=True, slots=True)
class Change:
    """What a rebalance means for one member."""

    revoked: Partitions
    assigned: Partitions


@dataclass(slots=True)
class Group:
    """The coordinator's view of one group. Not thread-safe: the broker's lock is held by the caller."""

    name: str
    generation: int = 0
    rebalancing: bool = False
    seats: dict[str, Seat] = field(default_factory=dict)
    assigned: dict[str, Partitions] = field(default_factory=dict)
    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    notes: dict[TopicPartition, str] = field(default_factory=dict)

    def enter(self, instance: str, topics: frozenset[str]) -> Seat:
        """Take a seat; a namesake's is taken over with its assignment and without a rebalance (static membership)."""
        namesake = self.seats.get(instance)
        seat = self.seats[instance] = Seat(instance, topics)
        if namesake is None or namesake.topics != topics:
            self.rebalancing = True
        else:
            seat.joined = namesake.joined
        return seat

    def has(self, seat: Seat) -> bool:
        """Whether the seat is still in the group, and nobody else's."""
        return self.seats.get(seat.instance) is seat

    def is_fenced(self, seat: Seat) -> bool:
        """Whether a namesake sits there now."""
        return seat.instance in self.seats and not self.has(seat)

    def leave(self, seat: Seat) -> None:
        """Give the seat up; nothing happens if it was lost before."""
        if self.has(seat):
            del self.seats[seat.instance]
            self.assigned.pop(seat.instance, None)
            self.rebalancing = bool(self.seats)

    def rejoin(self, seat: Seat) -> None:
        """Rebalance at a member's request: a namesake that took a seat over in the middle of a rebalance does not say
        what the older one was to give up, so that nobody is given it (as in Kafka)."""
        if self.has(seat):
            self.rebalancing = True

    def step(self, seat: Seat, partitions: Collection[TopicPartition]) -> Change | None:
        """One member's poll: join the rebalance under way, close it if all have, and tell what changed for the member.

        `partitions` are all those of the topics anybody subscribes to.
        """
        if self.rebalancing:
            seat.joined = True
            if all(each.joined for each in self.seats.values()):
                self._close(partitions)
        if self.rebalancing or seat.generation == self.generation:
            return None
        return self._sync(seat)

    def is_stable(self, seat: Seat) -> bool:
        """Whether a member knows its place in the present generation and is not waiting for the next."""
        return self.has(seat) and not seat.joined and seat.generation == self.generation

    def check(self, member: MemoryMember) -> None:
        """Raise Fenced or TransactionAborted unless the member may commit offsets."""
        if self.is_fenced(member.seat):
            raise Fenced(
                f"group {self.name}: another consumer named {member.seat.instance} has joined; "
                "exit, and give each worker its own instance name"
            )
        if not self.has(member.seat) or member.generation != self.generation:
            raise TransactionAborted(
                f"group {self.name}: the commit was refused: {member.seat.instance} is a member of generation "
                f"{member.generation}, the group is at {self.generation}; poll, then restore"
            )

    def _close(self, partitions: Collection[TopicPartition]) -> None:
        self.rebalancing = False
        self.generation += 1
        target = _balance(self._wishes(), {each.instance: each.topics for each in self.seats.values()}, partitions)
        for instance, seat in self.seats.items():
            seat.joined = False
            elsewhere = _NONE.union(*(other.held for other in self.seats.values() if other is not seat))
            self.assigned[instance] = target[instance] - elsewhere

    def _wishes(self) -> dict[str, Partitions]:
        """What each member would like to keep: what it holds, or (a namesake who holds nothing yet) was assigned."""
        return {
            instance: seat.held if seat.generation >= 0 else self.assigned.get(instance, _NONE)
            for instance, seat in self.seats.items()
        }

    def _sync(self, seat: Seat) -> Change:
        assigned = self.assigned[seat.instance]
        change = Change(revoked=seat.held - assigned, assigned=assigned - seat.held)
        seat.held, seat.generation = assigned, self.generation
        if change.revoked:
            self.rebalancing = True
        return change


def _balance(
    wishes: Mapping[str, Partitions],
    topics: Mapping[str, frozenset[str]],
    partitions: Collection[TopicPartition],
) -> dict[str, Partitions]:
    """Share partitions out evenly, moving as few as possible; a tie goes to the first member by name."""
    shares: dict[str, set[TopicPartition]] = {instance: set() for instance in sorted(topics)}
    for partition in sorted(partitions):
        able = [instance for instance in shares if partition.topic in topics[instance]]
        if able:
            keepers = [instance for instance in able if partition in wishes[instance]]
            shares[min(keepers or able, key=lambda each: len(shares[each] | wishes[each]))].add(partition)
    while move := _next_move(shares, topics):
        partition, giver, taker = move
        shares[giver].remove(partition)
        shares[taker].add(partition)
    return {instance: frozenset(share) for instance, share in shares.items()}


def _next_move(
    shares: Mapping[str, set[TopicPartition]], topics: Mapping[str, frozenset[str]]
) -> tuple[TopicPartition, str, str] | None:
    """A partition to hand from a member to one that has at least two fewer, or None when the shares are even."""
    for giver in sorted(shares, key=lambda each: -len(shares[each])):
        for taker in sorted(shares, key=lambda each: len(shares[each])):
            if len(shares[giver]) - len(shares[taker]) < 2:
                break
            movable = [partition for partition in shares[giver] if partition.topic in topics[taker]]
            if movable:
                return max(movable), giver, taker
    return None

#!/usr/bin/env python3
"""A model of the barriers of src/cuda/attend_{schedule,load,compute}.cuh: a scheduling warp, two loading warps, eight
computing warps, copies that land at any time, in random schedules. Fails on a deadlock, on a stage that is overwritten
while a warp may still read it, and on a warp that reads another tile than it expects; and if seeded faults are not
found. With `alone` one loading warp does all, schedules as well, as the kernels that gather rows do: it waits for its
copies of K and V itself, and announces them afterwards."""

import random
import sys

TILE_STAGES = 2  # kTileStages
ENDING_STEPS = 2  # kEndingSteps, at the scale of the tiles here


class Barrier:
    """mbarrier: a phase ends when all arrivals and all announced copies are in."""

    def __init__(self, arrivals):
        self.arrivals, self.missing, self.copies, self.parity = arrivals, arrivals, 0, 0

    def arrive(self, copies=0):
        assert self.missing > 0, "too many arrivals"
        self.copies += copies
        self.missing -= 1
        self.finish()

    def land(self):
        self.copies -= 1
        self.finish()

    def finish(self):
        if self.missing == 0 and self.copies == 0:
            self.parity ^= 1
            self.missing = self.arrivals

    def passed(self, parity):
        return self.parity != parity


class NamedBarrier:
    def __init__(self):
        self.threads, self.round = 0, 0

    def arrive(self, threads, total):
        self.threads += threads
        assert self.threads <= total, "too many threads at a named barrier"
        if self.threads == total:
            self.threads, self.round = 0, self.round + 1


class Ring:
    def __init__(self, stages, parity):
        self.stages, self.stage, self.parity = stages, 0, parity

    def advance(self):
        self.stage += 1
        if self.stage == self.stages:
            self.stage, self.parity = 0, self.parity ^ 1


class Model:
    def __init__(self, seed, tiles, q_stages, k_stages, v_stages, alone, fault):
        self.random = random.Random(seed)
        self.tiles, self.alone, self.fault = tiles, alone, fault
        self.stages = {"tile": TILE_STAGES, "q": q_stages, "k": k_stages, "v": v_stages}
        self.full = {name: [Barrier(1) for _ in range(n)] for name, n in self.stages.items()}
        readers = {"tile": 9 if alone else 10, "q": 8, "k": 7 if fault == "early empty" else 8, "v": 8}
        if fault == "unread tile":
            readers["tile"] = 8
        self.empty = {name: [Barrier(readers[name]) for _ in range(n)] for name, n in self.stages.items()}
        self.ending = Barrier(1)  # phases of tiles of more than ENDING_STEPS
        self.ended = -1  # the last tile whose end is near
        self.named = [NamedBarrier() for _ in range(8)]
        self.memory, self.readers, self.copies, self.stored = {}, {}, [], 0

    def rings(self, parity):
        return {name: Ring(n, parity) for name, n in self.stages.items()}

    def copy(self, name, ring, value, announced=True):
        slot = (name, ring.stage)
        assert not self.readers.get(slot), f"{slot} is overwritten while it is read"
        self.memory[slot] = "in flight"
        self.copies.append((slot, value, self.full[name][ring.stage] if announced else None))
        if announced:
            self.full[name][ring.stage].arrive(copies=1)

    def wait_empty(self, name, ring):
        while not (self.fault == "no wait" and name == "v") and not self.empty[name][ring.stage].passed(ring.parity):
            yield

    def store(self, name, ring, value):
        """A plain store that is announced at once."""
        slot = (name, ring.stage)
        assert not self.readers.get(slot), f"{slot} is overwritten while it is read"
        self.memory[slot] = value
        self.full[name][ring.stage].arrive()

    def announce(self, rings, tile, steps):
        yield from self.wait_empty("tile", rings["tile"])
        self.store("tile", rings["tile"], (tile, steps))
        rings["tile"].advance()

    def load_q(self, rings, tile, steps):
        yield from self.wait_empty("q", rings["q"])
        if steps:
            self.copy("q", rings["q"], tile)
        else:
            self.full["q"][rings["q"].stage].arrive()
        rings["q"].advance()

    def schedule(self):
        rings, ending_parity = self.rings(parity=1), 0
        for tile, steps in enumerate(self.tiles):
            yield from self.announce(rings, tile, steps)
            yield
            yield from self.load_q(rings, tile, steps)
            if steps > ENDING_STEPS:
                while not self.ending.passed(ending_parity):
                    yield
                ending_parity ^= 1
                assert self.ended >= tile, f"tile {tile} is said to end"
        yield from self.announce(rings, -1, 0)

    def load(self, names):
        """The warp that loads K, V or both."""
        rings, seen, announced = self.rings(parity=1), Ring(TILE_STAGES, 0), self.rings(parity=1)
        me = f"load {names}"
        left, expected = list(enumerate(self.tiles)) + [(-1, 0)], 0

        unfinished = []  # alone: slots that are filled, which nobody knows of yet

        def finish(left=0):
            while len(unfinished) > left:
                while self.memory[unfinished[0]] == "in flight":
                    yield
                name, stage = unfinished.pop(0)
                self.full[name][stage].arrive()

        def fill(name, value):
            ring = rings[name]
            if self.alone and name == "k":
                yield from finish()
            if self.fault != "unannounced" and not self.empty[name][ring.stage].passed(ring.parity):
                yield from finish()
            yield from self.wait_empty(name, ring)
            self.copy(name, ring, value, announced=not self.alone)
            if self.alone:
                unfinished.append((name, ring.stage))
                yield from finish(left=1)
            ring.advance()

        while True:
            if self.fault != "unannounced":
                yield from finish()
            if self.alone:
                yield from self.announce(announced, *left[0])
                left.pop(0)
            while not self.full["tile"][seen.stage].passed(seen.parity):
                yield
            slot = ("tile", seen.stage)
            self.readers.setdefault(slot, set()).add(me)
            tile, steps = self.memory[slot]
            assert tile in (expected, -1), f"the loading warp sees tile {tile}, expected {expected}"
            expected += 1
            yield
            self.readers[slot].discard(me)
            if self.fault != "unread tile":
                self.empty["tile"][seen.stage].arrive()
            seen.advance()
            if tile < 0:
                return
            for step in range(steps + 1):
                # Short tiles do not tell; max() is for the fault that they do.
                ends = step == max(steps - ENDING_STEPS, 0) and (step > 0 or self.fault == "short end")
                if ends and names == "k":
                    yield
                    self.ended = tile
                    self.ending.arrive()
                if step < steps and "k" in names:
                    yield from fill("k", (tile, step))
                if step == 0 and self.alone:
                    if not self.empty["q"][announced["q"].stage].passed(announced["q"].parity):
                        yield from finish()
                    yield from self.load_q(announced, tile, steps)
                if step > 0 and "v" in names:
                    yield from fill("v", (tile, step - 1))
                yield

    def compute(self, group, warp):
        rings, me = self.rings(parity=0), (group, warp)

        def arrived(name):
            ring = rings[name]
            while not self.full[name][ring.stage].passed(ring.parity):
                yield

        def read(name, expected):
            slot = (name, rings[name].stage)
            assert self.memory.get(slot) == expected, f"{slot}: {self.memory.get(slot)}, expected {expected}"
            self.readers.setdefault(slot, set()).add(me)

        def release(name):
            ring = rings[name]
            self.readers.get((name, ring.stage), set()).discard(me)
            self.empty[name][ring.stage].arrive()
            ring.advance()

        def sync(number, threads):
            before = self.named[number].round
            self.named[number].arrive(32, threads)
            while self.named[number].round == before:
                yield

        if group == 0:
            self.named[1].arrive(32, 256)
        while True:
            yield from arrived("tile")
            slot = ("tile", rings["tile"].stage)
            self.readers.setdefault(slot, set()).add(me)
            tile, steps = self.memory[slot]
            if tile < 0:
                return
            yield from arrived("q")
            if steps:
                read("q", tile)
                yield from arrived("k")
                read("k", (tile, 0))
                yield
                release("k")
                if steps > 1:
                    yield from arrived("k")
            for step in range(1, steps):
                yield from sync(1 + group, 256)
                read("k", (tile, step))
                yield from arrived("v")
                read("v", (tile, step - 1))
                if not (self.fault == "lost turn" and step == 2):
                    self.named[2 - group].arrive(32, 256)
                yield
                release("k")
                if step + 1 < steps:
                    yield from arrived("k")
                release("v")
            if steps:
                yield from arrived("v")
                read("v", (tile, steps - 1))
                yield
                release("v")
            yield from sync(3 + group, 128)
            yield
            release("q")
            release("tile")
            self.stored += 1

    def run(self):
        warps = [self.load(names) for names in (["kv"] if self.alone else ["k", "v"])]
        warps += [self.compute(group, warp) for group in (0, 1) for warp in range(4)]
        if not self.alone:
            warps.append(self.schedule())
        idle = 0
        slow = self.random.choice(warps)
        while warps:
            idle += 1
            if self.copies and self.random.random() < 0.5:
                slot, value, full = self.copies.pop(self.random.randrange(len(self.copies)))
                self.memory[slot] = value
                if full:
                    full.land()
                idle = 0
            before = self.state()
            warp = self.random.choice(warps)
            if warp is slow and self.random.random() < 0.97:
                continue
            if next(warp, "end") == "end":
                warps.remove(warp)
                idle = 0
            if self.state() != before:
                idle = 0
            assert idle < 100000, "deadlock"
        assert self.stored == 8 * len(self.tiles)

    def state(self):
        return [(b.missing, b.parity) for group in (self.full, self.empty) for ring in group.values() for b in ring] + [
            (self.ending.missing, self.ending.parity)] + [(b.threads, b.round) for b in self.named]


def main():
    # As attend_shape.cuh chooses them; the last is tighter.
    rings = ((2, 4, 4), (2, 4, 3), (2, 3, 2), (1, 2, 2), (1, 4, 3), (1, 3, 2), (2, 2, 2))
    for seed in range(6):
        choose = random.Random(seed)
        tiles = [choose.choice([0, 0, 1, 1, 2, 3, 4, 7]) for _ in range(choose.randrange(1, 8))]
        for stages in rings:
            for alone in (False, True):
                Model(seed, tiles, *stages, alone, fault=None).run()
    # An empty stage is announced a warp too soon; V is not waited for; a group keeps its turn; a loading warp does not
    # say that it has read the tile; copies are not announced before a wait; a tile of at most ENDING_STEPS tells its
    # end, for which nobody waits.
    for fault in ("early empty", "no wait", "lost turn", "unread tile", "unannounced", "short end"):
        found = 0
        for seed in range(10):
            try:
                Model(seed, [3, 7, 1, 4, 0, 0, 5, 0, 0, 6, 2], 2, 2, 2, fault == "unannounced", fault).run()
            except AssertionError:
                found += 1
        if found == 0:
            sys.exit(f"the fault '{fault}' was not found")


if __name__ == "__main__":
    main()

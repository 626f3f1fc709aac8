"""Bugs of the log, the hard state and the snapshots of one node."""

from __future__ import annotations

from chaos.gallery.bug import Bug, Edit
from chaos.gallery.instruments import crash_points, simulator, storage_crash_points, storage_damage

BUGS = (
    Bug(
        "fsync-removed",
        "NATS JetStream #7564 (acks before a deferred fsync); PySyncObj #84",
        "S1",
        (Edit("storage/job.py", "        segment.file.sync()", "        pass"),),
        (
            simulator("list", 40),
            crash_points("enqueue"),
            storage_crash_points(),
        ),
    ),
    Bug(
        "directory-fsync-removed",
        "Pillai 2014 (a new file whose name is not durable); PySyncObj's meta file",
        "S1, S22",
        (
            Edit(
                "storage/job.py",
                "            self.disk.sync_dir()\n            segment.file",
                "            segment.file",
            ),
        ),
        (
            simulator("list", 40),
            storage_crash_points(),
        ),
    ),
    Bug(
        "hard-state-not-synced",
        "PySyncObj's MetaStorer: no fsync in spite of its comment (r01b)",
        "S18",
        (Edit("storage/hard_state.py", "        self._files[slot].sync()", "        pass"),),
        (simulator("list", 40),),
    ),
    Bug(
        "vote-not-stored",
        "PySyncObj before 0.3.17 (P8, issue #201); Raft: votedFor is persistent state",
        "S18",
        (
            Edit(
                "storage/storage.py",
                "hard_state.encode_slot(self._hard)",
                "hard_state.encode_slot(msgspec.structs.replace(self._hard, voted_for=None))",
            ),
        ),
        (simulator("list", 40),),
    ),
    Bug(
        "term-not-stored",
        "PySyncObj before 0.3.17 (P8, issue #201); Raft: currentTerm is persistent state",
        "S18",
        (
            Edit(
                "storage/storage.py",
                "hard_state.encode_slot(self._hard)",
                "hard_state.encode_slot(msgspec.structs.replace(self._hard, term=0, voted_for=None))",
            ),
        ),
        (simulator("list", 40),),
    ),
    Bug(
        "hard-state-one-copy",
        "R4; PySyncObj's single meta file (P4)",
        "S18, S22",
        (Edit("storage/job.py", "self.slots.write_second(self.hard)", "pass"),),
        (storage_crash_points(),),
    ),
    Bug(
        "crc-mismatch-is-torn",
        "Alagappan 2018 (PAR): a damaged middle is cut like a torn tail; NATS #7549",
        "S22",
        (
            Edit("storage/recovery.py", "if watermark > end:", "if False:"),
            Edit("storage/recovery.py", "if proof > end:", "if False:"),
        ),
        (
            simulator("list", 40),
            storage_damage(),
        ),
    ),
    Bug(
        "damage-does-not-recover",
        "NATS #7556, #7549: a damaged node votes and leads as if nothing had happened",
        "S22, R6",
        (
            Edit(
                "storage/opening.py",
                "    recovering = _marked(disk, hard)\n",
                "    recovering, reasons = None, []\n",
            ),
        ),
        (
            simulator("list", 40),
            storage_damage(),
        ),
    ),
    Bug(
        "watermark-never-written",
        "R3: a flipped byte in the last record looks like a torn write",
        "S22",
        (
            Edit(
                "storage/storage.py", "watermark = self._log.durable_end", "watermark = self._hard.watermark"
            ),
        ),
        (storage_damage(),),
    ),
    Bug(
        "zero-tail-is-damage",
        "preallocated log files: zeros behind the last record taken for content",
        "S22, R3",
        (Edit("storage/recovery.py", "tail_is_zero = is_zero(raw, offset)", "tail_is_zero = False"),),
        (simulator("list", 40),),
    ),
    Bug(
        "compaction-one-segment-too-many",
        "etcd #14685 / #17780 (entries compacted that are still needed)",
        "S1, S22",
        (
            Edit(
                "storage/log.py",
                "                keep = number\n",
                "                keep = min(number + 1, len(self.segments) - 1)\n",
            ),
        ),
        (simulator("list", 40),),
    ),
    Bug(
        "compaction-not-atomic",
        "PySyncObj P2 (kill inside deleteEntriesTo); Pillai 2014 (unlinks before the state that allows them)",
        "S1, S22",
        (
            Edit("storage/job.py", "            self._remove()\n        except", "        except"),
            Edit(
                "storage/job.py",
                "            made = self._allocate()\n",
                "            made = self._allocate()\n            self._remove()\n",
            ),
        ),
        (storage_crash_points(),),
    ),
    Bug(
        "compaction-in-place",
        "PySyncObj P2: what is kept is written anew in place when the log is compacted",
        "S1, S22",
        (
            Edit(
                "storage/storage.py",
                "        if gone:\n            self._gone += gone\n",
                "        if gone:\n"
                "            first = self._log.segments[0]\n"
                "            kept = first.file.read_at(4096, first.capacity - 4096)\n"
                "            first.file.write_at(4096, bytes(len(kept)))\n"
                "            first.file.write_at(4096, kept)\n"
                "            self._gone += gone\n",
            ),
        ),
        (storage_crash_points(),),
    ),
    Bug(
        "snapshot-renamed-before-sync",
        "Pillai 2014: rename before data",
        "S1, S22",
        (
            Edit(
                "storage/snapshots.py",
                "                self._file.sync()\n            finally:",
                "                pass\n            finally:",
            ),
        ),
        (storage_crash_points(),),
    ),
    Bug(
        "fsync-error-retried",
        "Rebello 2020, PostgreSQL 2018 (fsyncgate): after EIO the second fsync says ok, the pages are gone",
        "S1",
        (
            Edit(
                "storage/job.py",
                "        segment.file.sync()",
                "        try:\n            segment.file.sync()\n        except OSError:\n            segment.file.sync()",
            ),
        ),
        (storage_crash_points(),),
    ),
    Bug(
        "conflict-cut-not-logged",
        "etcd WAL: entries overwritten in memory, replayed as two logs",
        "S17, S18",
        (Edit("storage/log.py", 'self._put(RecordKind.TRUNCATE, index, 0, b"")', "pass"),),
        (storage_crash_points(),),
    ),
    Bug(
        "old-bytes-behind-the-cut",
        "LevelDB/etcd: a stale record fits a later chain",
        "S17, S22",
        (Edit("storage/repair.py", "        _zero_from(disk, found, dry=False)\n", "        pass\n"),),
        (storage_damage(),),
    ),
)

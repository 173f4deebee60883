"""The tables of steward.sqlite, version by version. Pure text.

Who writes what: the console `extensions`, the steward everything else. Both read all.
"""

VERSIONS = (
    """
    CREATE TABLE notices (
        lease TEXT PRIMARY KEY,
        user TEXT NOT NULL,
        server TEXT NOT NULL,
        course TEXT NOT NULL,
        reason TEXT NOT NULL,
        sentence TEXT NOT NULL,
        stops_at TEXT,
        extend_by_s REAL NOT NULL,
        extend_price INTEGER NOT NULL,
        n_extensions_left INTEGER NOT NULL,
        next_extension INTEGER NOT NULL,
        published_at TEXT NOT NULL
    ) STRICT;
    CREATE INDEX notices_of_server ON notices (user, server);

    CREATE TABLE extensions (
        lease TEXT NOT NULL,
        k INTEGER NOT NULL CHECK (k > 0),
        by_s REAL NOT NULL CHECK (by_s > 0),
        at TEXT NOT NULL,
        until TEXT NOT NULL,
        PRIMARY KEY (lease, k)
    ) STRICT;

    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at TEXT NOT NULL,
        action TEXT NOT NULL,
        lease TEXT NOT NULL,
        user TEXT NOT NULL,
        server TEXT NOT NULL,
        reason TEXT NOT NULL,
        sentence TEXT NOT NULL,
        is_dry_run INTEGER NOT NULL,
        evidence TEXT NOT NULL
    ) STRICT;

    CREATE TABLE told (
        lease TEXT PRIMARY KEY,
        reason TEXT NOT NULL,
        since TEXT NOT NULL,
        stops_at TEXT,
        is_dry_run INTEGER NOT NULL,
        is_past INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE claims (
        lease TEXT PRIMARY KEY,
        user TEXT NOT NULL,
        server TEXT NOT NULL,
        reason TEXT NOT NULL,
        sentence TEXT NOT NULL,
        at TEXT NOT NULL,
        evidence TEXT NOT NULL,
        has_failed INTEGER NOT NULL,
        is_sent INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE seen (
        lease TEXT PRIMARY KEY,
        user TEXT NOT NULL,
        server TEXT NOT NULL,
        offer TEXT NOT NULL,
        course TEXT NOT NULL,
        use TEXT NOT NULL,
        why TEXT NOT NULL,
        verdict TEXT NOT NULL,
        reason TEXT,
        stops_at TEXT,
        sentence TEXT NOT NULL,
        is_dry_run INTEGER NOT NULL,
        at TEXT NOT NULL
    ) STRICT;

    CREATE TABLE looks (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        at TEXT NOT NULL,
        complete_at TEXT,
        trouble TEXT NOT NULL,
        n_servers INTEGER NOT NULL,
        is_dry_run INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE outbox (
        id TEXT PRIMARY KEY,
        hook TEXT NOT NULL,
        event INTEGER NOT NULL,
        stops_at TEXT,
        n_tries INTEGER NOT NULL,
        next_at TEXT NOT NULL
    ) STRICT;
    CREATE INDEX outbox_due ON outbox (next_at);
    """,
    # The id tells this file from one that is made after this one was deleted.
    """
    CREATE TABLE files (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        id TEXT NOT NULL
    ) STRICT;
    INSERT INTO files VALUES (1, lower(hex(randomblob(16))));

    ALTER TABLE extensions ADD COLUMN user TEXT NOT NULL DEFAULT '';
    ALTER TABLE extensions ADD COLUMN server TEXT NOT NULL DEFAULT '';
    ALTER TABLE extensions ADD COLUMN course TEXT NOT NULL DEFAULT '';
    ALTER TABLE extensions ADD COLUMN reason TEXT NOT NULL DEFAULT 'idle';
    ALTER TABLE extensions ADD COLUMN price INTEGER NOT NULL DEFAULT 0;
    """,
)
"""What brings the tables from each version to the next; the first one from nothing."""

-- The tables of format 1, and what a short history left in them.
CREATE TABLE users (
    user_pk INTEGER PRIMARY KEY,
    user_id TEXT NOT NULL UNIQUE
) STRICT;

-- Rows stay for ever, so that no version id is given twice.
CREATE TABLE versions (
    user_pk INTEGER NOT NULL,
    version INTEGER NOT NULL,
    algorithm TEXT NOT NULL,
    auth_data TEXT NOT NULL,
    auth_data_since INTEGER NOT NULL,
    key_set_pk INTEGER NOT NULL,
    etag INTEGER NOT NULL,
    count INTEGER NOT NULL,
    deleted_at INTEGER,
    PRIMARY KEY (user_pk, version)
) STRICT, WITHOUT ROWID;

-- A version shows one key set. Deleting the version, or all its keys, detaches the set.
CREATE TABLE key_sets (
    key_set_pk INTEGER PRIMARY KEY AUTOINCREMENT, -- a restore in flight holds on to it
    user_pk INTEGER NOT NULL,
    version INTEGER NOT NULL,
    attached_at INTEGER NOT NULL,
    detached_at INTEGER,
    count INTEGER, -- when it was detached
    is_purging INTEGER NOT NULL DEFAULT 0 -- some of its keys are gone already
) STRICT;
CREATE INDEX key_sets_by_version ON key_sets (user_pk, version);
CREATE INDEX key_sets_by_end ON key_sets (detached_at) WHERE detached_at IS NOT NULL;

-- A table with row ids: rows lie in the order of their arrival, as measured the fastest.
CREATE TABLE keys (
    key_set_pk INTEGER NOT NULL,
    room_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    is_verified INTEGER NOT NULL,
    first_message_index INTEGER NOT NULL,
    forwarded_count INTEGER NOT NULL,
    stored_at INTEGER NOT NULL, -- the etag that came with it
    session_data TEXT NOT NULL,
    UNIQUE (key_set_pk, room_id, session_id)
) STRICT;

-- Keys that were deleted one by one or by room, or were beaten by a better one.
CREATE TABLE key_history (
    key_set_pk INTEGER NOT NULL,
    room_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    is_verified INTEGER NOT NULL,
    first_message_index INTEGER NOT NULL,
    forwarded_count INTEGER NOT NULL,
    stored_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL, -- the etag that came with the change
    session_data TEXT NOT NULL
) STRICT;
CREATE INDEX key_history_by_key_set ON key_history (key_set_pk, room_id, session_id, ended_at);
CREATE INDEX key_history_by_end ON key_history (ended_at);

CREATE TABLE auth_data_history (
    user_pk INTEGER NOT NULL,
    version INTEGER NOT NULL,
    auth_data TEXT NOT NULL,
    since INTEGER NOT NULL,
    ended_at INTEGER NOT NULL
) STRICT;
CREATE INDEX auth_data_history_by_version ON auth_data_history (user_pk, version, ended_at);
CREATE INDEX auth_data_history_by_end ON auth_data_history (ended_at);

-- Who changed what. Plain additions leave no line: their time is in stored_at.
CREATE TABLE journal (
    user_pk INTEGER NOT NULL,
    at INTEGER NOT NULL,
    action TEXT NOT NULL, -- create_version, update_version, delete_version, replace_keys, delete_keys
    version INTEGER NOT NULL,
    device_id TEXT,
    keys INTEGER NOT NULL -- how many were replaced or deleted
) STRICT;
CREATE INDEX journal_by_user ON journal (user_pk, at);

INSERT INTO users VALUES (1, '@user0:example.org');
INSERT INTO key_sets VALUES
    (1, 1, 100, 100, 500, 1, 0), -- all keys deleted at 500
    (2, 1, 100, 500, NULL, NULL, 0),
    (3, 1, 700, 700, 800, 0, 0);
INSERT INTO versions VALUES
    (1, 100, 'org.example.other', '{"public_key": "key0", "signature": 1}', 400, 2, 600, 1, NULL),
    (1, 700, 'org.example.other', '{}', 700, 3, 800, 0, 800);
INSERT INTO keys VALUES
    (1, '!a:x', 's', 1, 0, 0, 300, '{"better": 1}'),
    (2, '!a:x', 's', 1, 9, 0, 600, '{"kept": 1}');
INSERT INTO key_history VALUES (1, '!a:x', 's', 0, 0, 0, 200, 300, '{"beaten": 1}');
INSERT INTO auth_data_history VALUES
    (1, 100, '{"public_key": "key0", "signature": 0}', 100, 400);
INSERT INTO journal VALUES
    (1, 100, 'create_version', 100, 'PHONE', 0),
    (1, 300, 'replace_keys', 100, 'PHONE', 1),
    (1, 400, 'update_version', 100, 'PHONE', 0),
    (1, 500, 'delete_keys', 100, 'PHONE', 1),
    (1, 700, 'create_version', 700, NULL, 0),
    (1, 800, 'delete_version', 700, NULL, 0);
PRAGMA application_id = 0x53747267;
PRAGMA user_version = 1;

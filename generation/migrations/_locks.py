"""Lock timeout of migrations: the first operation of each migration that alters a table in use."""

from django.db.migrations import RunSQL

# All queries of a table queue behind an ALTER TABLE that waits for a long transaction. With the timeout the migration
# fails without a change instead, and is run again. LOCAL to the transaction, since a pooler may share the session.
lock_timeout = RunSQL("SET LOCAL lock_timeout = '5s'", RunSQL.noop)

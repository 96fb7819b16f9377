"""Lock timeout of migrations: the first operation of each one that alters a table that is in use."""

from django.db.migrations import RunSQL

# An ALTER TABLE that waits for a long transaction makes all queries of the table wait behind it. It gives up instead:
# the migration fails without a change, and is run again. Within the transaction: a pooler may share the session.
lock_timeout = RunSQL("SET LOCAL lock_timeout = '5s'", RunSQL.noop)

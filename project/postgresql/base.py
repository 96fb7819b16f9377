"""Django's backend for PostgreSQL, which asks a lasting connection without a round trip whether it still lives.

Django sends "SELECT 1" at the beginning of each request. A server that stopped has closed the connection, and that can
be read on our side; of a host that vanished without a word TCP tells later, after `tcp_user_timeout`, either way.
"""

import select

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    def is_usable(self) -> bool:
        connection = self.connection
        if connection is None or connection.closed:
            return False
        # Nothing was asked, so there is nothing to read but the server's farewell. (poll: no limit on file numbers.)
        waiting = select.poll()
        waiting.register(connection.fileno(), select.POLLIN)
        return not waiting.poll(0)

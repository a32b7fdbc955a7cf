"""Makes a service wait for connections by SQLAlchemy's own queue: what the chassis's is worth.

A variant puts this folder on the service's path; the chassis itself has no switch for it.
"""

from chassis.db import pool

vars(pool).update(replace_queue=lambda kind, *_: kind)

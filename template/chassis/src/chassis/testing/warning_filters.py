"""Warnings of SQLAlchemy that name a bug, which tests take for errors."""

_BUGS = (
    # More rows than there are, for a join without a condition.
    r"\w+ statement has a cartesian product",
    # A row that is not written, or twice, or over another.
    "Object of type .* not in session, .* operation along .* (won't|will not) proceed",
    "New instance .* with identity key .* conflicts with persistent instance",
    "Identity map already had an identity for",
    "Instance .* is already pending in this Session yet is being merged again",
    "relationship .* will copy column .* to column .*, which conflicts with",
    "Session's state has been changed on a non-active transaction",
    "DELETE statement on table .* expected to delete",
    # What a flush is told while it runs.
    "Usage of the .* operation is not currently supported within the execution stage",
    "Attribute history events accumulated on",
    # Another object than the one that was meant, or none.
    "Multiple rows returned with uselist=False",
    "fully NULL primary key identity cannot load any object",
    "Bound parameter .* rendering literal NULL",
    "Flushing object .* with incompatible polymorphic identity",
    "Reassigning polymorphic association",
    "Loading context for .* has changed within a load/refresh handler",
    "This collection has been invalidated",
    # A column that the table does not have.
    "Ignoring declarative-like tuple value of attribute",
)
BUGS = [f"error:{message}:sqlalchemy.exc.SAWarning" for message in _BUGS]

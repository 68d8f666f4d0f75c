"""Boards that are reached over SSH: no torch here, and nothing to install on the board."""

from edgedistill.boards.address import Address
from edgedistill.boards.board import Board, Ran
from edgedistill.boards.connection import BoardError, ConnectionLost
from edgedistill.boards.fleet import Member, read
from edgedistill.boards.needs import needs_of
from edgedistill.boards.wheels import Facts, Needs, WheelError

__all__ = [
    "Address",
    "Board",
    "BoardError",
    "ConnectionLost",
    "Facts",
    "Member",
    "Needs",
    "Ran",
    "WheelError",
    "needs_of",
    "read",
]

"""The server of the tests."""

from servers.postgres import NoServer as NoServer
from servers.postgres import Portal as Portal
from servers.postgres import RealPostgres as RealPostgres

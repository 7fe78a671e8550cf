"""The smallest settings that a Django project can have, on the database that ORDERS_DB names, as in
`postgresql://shop@localhost/shop` or `sqlite:///orders.db`."""

import os
from urllib.parse import parse_qsl, unquote, urlsplit

_url = urlsplit(os.environ["ORDERS_DB"])

SECRET_KEY = "for an example"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "orders.urls"
INSTALLED_APPS = ["orders"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
if _url.scheme == "sqlite":
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": _url.path.removeprefix("/")}}
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _url.path.strip("/"),
            "USER": unquote(_url.username or ""),
            "PASSWORD": unquote(_url.password or ""),
            "HOST": _url.hostname or "",
            "PORT": str(_url.port or ""),
            "OPTIONS": dict(parse_qsl(_url.query)),
        }
    }

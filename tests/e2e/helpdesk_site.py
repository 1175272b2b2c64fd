"""A django-helpdesk as its users have it: one Django project in one file, run by its own server.

`python helpdesk_site.py FOLDER PORT [WEBHOOK]` makes a database in FOLDER with the accounts otvet and agent (password:
secret) and one queue, and serves until it is stopped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(folder: Path, port: str, webhook: str | None) -> None:
    import django
    from django.conf import settings
    from django.core.management import call_command

    if webhook:
        os.environ["HELPDESK_FOLLOWUP_WEBHOOK_URLS"] = webhook
    settings.configure(
        BASE_DIR=folder,
        DEBUG=False,
        SECRET_KEY="for tests alone",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=__name__,
        MEDIA_ROOT=str(folder / "media"),
        MEDIA_URL="/media/",
        STATIC_URL="/static/",
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "db.sqlite3")}},
        EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend",
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.sites",
            "django.contrib.messages",
            "django.contrib.humanize",
            "django.contrib.staticfiles",
            "django.contrib.admin",
            "rest_framework",
            "helpdesk",
        ],
        SITE_ID=1,
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        HELPDESK_ACTIVATE_API_ENDPOINT=True,
        HELPDESK_TEAMS_MODE_ENABLED=False,
    )
    django.setup()
    call_command("migrate", verbosity=0)
    from django.contrib.auth import get_user_model
    from helpdesk.models import Queue

    users = get_user_model().objects
    if not users.filter(username="otvet").exists():
        for name in ("otvet", "agent"):
            users.create_superuser(name, f"{name}@example.com", "secret")
        Queue.objects.create(title="Support", slug="support")
    call_command("runserver", f"127.0.0.1:{port}", use_reloader=False, verbosity=0)


def __getattr__(name: str) -> object:
    """The routes, which can be read only once Django is set up."""
    if name != "urlpatterns":
        raise AttributeError(name)
    from django.conf import settings
    from django.urls import include, path
    from django.views.static import serve

    media = {"document_root": settings.MEDIA_ROOT}
    return [path("helpdesk/", include("helpdesk.urls")), path("media/<path:path>", serve, media)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)

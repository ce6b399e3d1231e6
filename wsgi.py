"""The application that gunicorn serves, configured by VLSERVE_… variables."""

from app import create_app
from app.settings import Settings

application = create_app(Settings.from_env())

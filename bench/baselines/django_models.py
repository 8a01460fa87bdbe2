"""The greetings as Django's ORM knows them. To be imported once Django has its settings."""

from __future__ import annotations

from django.db import models


class Greeting(models.Model):  # type: ignore[misc]  # Django brings no types
    """One row of the table that `greetings.prepare_table` makes."""

    id = models.IntegerField(primary_key=True)
    message = models.TextField()

    class Meta:
        """Not Django's to make."""

        app_label = "baselines"
        db_table = "greetings"
        managed = False

    def __str__(self) -> str:
        return str(self.message)

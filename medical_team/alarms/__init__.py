"""Alarms: what tells, step by step, that self-play is going wrong."""

from medical_team.alarms.alarm import Alarm, AlarmError, stop_message
from medical_team.alarms.book import AlarmBook
from medical_team.alarms.settings import AlarmName, AlarmSettings

__all__ = ["Alarm", "AlarmBook", "AlarmError", "AlarmName", "AlarmSettings", "stop_message"]

"""The kernels themselves: functions in Triton's language, whose types have no annotations in Python."""

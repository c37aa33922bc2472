"""The student: loading, adapters, placement over devices."""

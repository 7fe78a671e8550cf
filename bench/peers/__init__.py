"""What users pick today, measured in the same run: installed by the measurement, in an environment of its own."""

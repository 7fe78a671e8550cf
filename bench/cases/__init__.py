"""The rows of the report, by case. Each module has one function that gives its rows."""

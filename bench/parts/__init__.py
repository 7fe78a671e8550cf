"""What runs in processes of its own. Each part takes its options as one JSON argument and says JSON lines."""

"""All English of results and reports, written from numbers and enums; nothing reads it back."""

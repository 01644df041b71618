"""What people read: chapters and their notebooks, `prose`, `plots`, `book`, committed results."""

"""What every stage stands on: files, foreign formats, faces, commands."""

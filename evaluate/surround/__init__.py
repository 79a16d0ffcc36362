"""Does a network recognise faces, or the hair and background around them?"""

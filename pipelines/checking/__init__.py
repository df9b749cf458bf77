"""Looking at prepared data: is every record sound, what is in it, has it changed?"""

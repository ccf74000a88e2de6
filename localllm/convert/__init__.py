"""The process in which llama.cpp's converter of safetensors runs. Nothing here is imported by the daemon.

process     one ConvertRequest in, ConvertEvents out; runs the converter's script
guards      what may not happen there: code of the model's folder, pickles, networks, other programs
reasons     what ended the converter, in words for a person
"""

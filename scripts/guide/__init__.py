"""How the bundled model `guide` is made, from written sentences to a GGUF file.

What each file is:

    facts.txt            what the model knows: answers, questions, held-out questions, reasons
    small_talk.txt       greetings and the like, in the same form as facts.txt
    unknown.txt          questions that must be refused, and the words they are varied with
    chat_template.jinja  the chat format, written into the GGUF
    corpus               reads the text files
    wording              words that mean nearly the same, and frames that say one request in many ways
    phrasing             other ways to put one question: reframed, reworded, polite, mistyped
    tools                invented tools, requests that fit them, and requests that do not
    template             renders conversations with the chat template
    conversations        mixes all of the above into conversations, and the held-out cases
    vocabulary           the byte-level BPE: training, encoding
    network              the llama architecture in torch
    induction            start weights with the circuit that repeats what was said before
    training             batches, optimiser, loss curve
    export               the GGUF file: metadata, weights, quantisation
    decode               a child process that answers prompts with llama.cpp
    evaluation           what the quantised model gets right

Not part of the program: `localllm` never imports this package. `../train_guide.py` is its only entry.
"""

"""Words that mean nearly the same, and frames that say one request in many ways: the lists behind phrasing.py.

They are general English, not sentences about localllm, and are applied to questions that the model knows and to
those it must refuse alike: what tells the two apart is what is asked, never how.
"""

OPENERS = (
    "Please", "Hi,", "Hello,", "Hey,", "Quick question:", "Sorry,", "Excuse me,", "So,", "And", "Ok,", "Well,",
    "Good morning,", "One more question:", "I have a question:", "Question:", "Tell me:", "I wonder:", "Now,",
    "Hi guide,", "Dear guide,", "But", "Just a question,", "By the way,", "Um,", "Actually,", "Also,", "Then",
    "I use Linux.", "I am a beginner.", "My colleague asks:", "Short question.", "I read the manual, but", "Right,",
    "I have looked everywhere.", "One thing is not clear to me:", "Let me ask:", "Could you help me?", "Right now",
    "My boss wants to know:", "I was wondering:", "In short:", "For a friend:", "As a newcomer I ask:", "Hm,",
    "Listen,", "Just curious:", "Hi there,", "Good evening,", "Could you tell me:", "Do you know:",
    "Sorry to bother you,", "I forgot:", "It is me again.", "I am lost.", "Stupid question:", "Next question:",
    "In simple words:", "Thanks.", "That is clear.", "I am confused.", "We discussed this at work:",
    "Somebody asked me:", "I tried everything.", "Ah,", "It is urgent.", "Say,", "Guide,", "Okay so", "Honestly,",
    "I am not an expert.", "I would like to know:", "Btw",
)  # fmt: skip
CLOSERS = (
    " please", ", please", " Thanks!", " Thank you.", " thanks", " now", " exactly", " today", " then", " again",
    ", guide", " for me", ", can you tell me?", " I am new here.", " on Linux", " on my laptop", " in general",
    " step by step", ", any idea?", ", do you know?", ", I wonder", " I am a beginner.", " I cannot find it.",
    " I could not find out.", " at all", " actually", " really", ", if I may ask", " on this computer", " these days",
    ", in short", " in simple words", " Please help.", " I am stuck.", ", right?", " Just asking.", " properly",
    " quickly",
)  # fmt: skip

# Beginnings that ask how to do what follows in the infinitive.
HOW = (
    "How do I|How can I|How to|How would I|How does one|How do you|How should I|What is the way to|"
    "What's the best way to|What is the easiest way to|Show me how to|Tell me how to|Explain how to|I want to|"
    "I need to|I'd like to|I would like to|I am trying to|What do I do to|Is there a way to|Do you know how to|"
    "Any way to"
)
HOW_FRAMES = (
    "I want to {do}, how?", "I want to {do}, how do I do that?", "I would like to {do}. How does that work?",
    "What must I do to {do}?", "What do I have to do to {do}?", "What do I need to do in order to {do}?",
    "What is the trick to {do}?", "I have to {do}", "I don't know how to {do}", "I cannot figure out how to {do}",
    "I was asked to {do}", "Let me {do}", "Could you show me how to {do}?", "My plan is to {do}",
    "Is it possible to {do}, and how?", "Which command lets me {do}?", "Which command would {do}?",
    "I forgot how to {do}", "Am I able to {do}?", "May I {do}?", "Do you know a way to {do}?",
    "What is needed to {do}?", "How could one {do}?", "How might I {do}?", "How shall I {do}?",
    "How am I supposed to {do}?", "What do I enter to {do}?", "{do}", "What should I write to {do}?",
    "I hope to {do}", "I wish to {do}", "We have to {do}, what do we do?", "{do}, how?", "How did people {do}?",
    "Where do I start if I want to {do}?", "What would I use to {do}?", "I intend to {do}", "I should {do}, but how?",
    "Can one {do}?", "Can you {do} for me?", "Is there any possibility to {do}?", "How is it possible to {do}?",
    "What if I want to {do}?", "Tell me what to do to {do}", "Best way to {do}?", "What command is there to {do}?",
    "Which option lets me {do}?", "What must be typed to {do}?", "I need a way to {do}",
    "I am looking for a way to {do}", "Does it let me {do}?", "If I want to {do}, what do I do?", "Time to {do}",
    "Someone told me to {do}, how does it go?", "Where can I {do}?", "Is there something that will {do}?",
    "How do I go about {doing}?", "How does {doing} work?", "Is there a way of {doing}?", "What about {doing}?",
    "I need help with {doing}", "{doing}, how does it work?", "What is the command for {doing}?", "{doing}",
    "Which command is for {doing}?", "I have trouble {doing}", "I am interested in {doing}", "Tips for {doing}?",
    "What do I use for {doing}?", "Is {doing} possible?", "I am thinking of {doing}", "Explain {doing}",
    "How hard is {doing}?", "I am stuck at {doing}", "Any advice on {doing}?", "Tell me about {doing}",
    "What is the right way of {doing}?", "I am busy {doing}, what do I do?", "How would {doing} be done?",
    "Do you know something about {doing}?", "I have never tried {doing}", "A command for {doing}?",
)  # fmt: skip
# Beginnings that ask what a thing is.
WHAT = (
    "What is|What's|What exactly is|What are|Explain|Please explain|Define|Describe|Tell me about|"
    "What do you know about|Can you explain|Can you tell me about|Could you describe"
)
WHAT_FRAMES = (
    "I wonder what {it} is", "Can you say what {it} is?", "{it}, what is that?", "What do people mean by {it}?",
    "I keep hearing about {it}", "Please tell me more about {it}", "What could {it} be?", "In short, what is {it}?",
    "I would like to understand {it}", "Give me the meaning of {it}", "What's the deal with {it}?", "{it} explained",
    "A short explanation of {it}, please", "I am curious about {it}", "I'd like to know about {it}", "{it}?",
    "What can you tell me about {it}?", "Do you know {it}?", "Could you tell me what {it} is?", "What about {it}?",
    "Someone mentioned {it}, what is it?", "I have a question about {it}", "Do you know what {it} is?",
    "Teach me {it}", "What is this {it}?", "How would you describe {it}?", "I need to know what {it} is",
    "Which thing is {it}?", "What does {it} mean?", "Everybody talks about {it}, what is that?", "Say what {it} is",
    "Who knows what {it} is?",
)  # fmt: skip
HEDGES = tuple("actually really best simply just then now quickly easily properly also ever".split())

# One word or phrase, and what may stand in its place; a plural or another form has its own line.
SYNONYM_LINES = """
machine: computer|laptop|PC|system|box|desktop|workstation|notebook
computer: machine|laptop|PC|desktop|workstation|Mac
laptop: computer|machine|notebook|PC
program: software|tool|application|app|thing
tool: program|utility|helper|gadget
folder: directory|place|location
file: document|data file
model: LLM|language model|AI model|network|neural network|AI
models: LLMs|language models|AI models|networks|AIs
answer: reply|response|output|result
answers: replies|responses|outputs
question: query|request|thing
questions: queries|requests
prompt: question|input|instruction|query
message: text|line|note
text: passage|writing|words|article
command: instruction|cmd|invocation|order
commands: instructions|cmds
memory: RAM|main memory|working memory
disk: hard disk|drive|SSD|hard drive|storage
chat: conversation|session|dialogue|talk
conversation: chat|talk|dialogue|session|discussion
error: problem|failure|error message|fault|trouble
problem: issue|trouble|difficulty|fault
daemon: server|service|background service|background process
server: daemon|service
settings: options|preferences|configuration values
setting: option|parameter|switch
option: flag|switch|setting|argument
variable: environment variable|env variable|env var|setting
people: users|persons|colleagues|folks
users: people|persons
requests: calls|queries|questions
request: call|query
terminal: console|shell|command line|terminal window
list: overview|listing|table
details: particulars|specifics|facts|information
information: details|info|facts
number of: count of|amount of|total of
key: secret|token|password
endpoint: route|path|URL|address
route: endpoint|path
quantisation: quantization|quant
speed: pace|performance|rate
network: LAN|net|internet
internet: net|web|network
place: spot|location|position
reason: cause|explanation
meaning: sense|definition
way: method|means|possibility|manner
thing: object|item|matter
lines: rows
pull: download|fetch|get|grab|load down|retrieve
download: fetch|pull|get|grab|retrieve|load
fetch: get|grab|download|bring
get: obtain|receive|have|fetch|acquire|find
show: display|list|print|present|reveal|see
list: show|print|enumerate|see
delete: remove|erase|wipe|discard|get rid of|throw away|dispose of
remove: delete|erase|take away|get rid of|clear away|eliminate
start: launch|begin|fire up|kick off|bring up|open
run: execute|launch|start|use|operate
launch: start|run|open
stop: halt|end|quit|terminate|finish|shut down
leave: exit|quit|go out of|depart from
close: shut|end|finish
use: employ|work with|make use of|utilise|try|apply
try: test|attempt|use
change: modify|alter|adjust|switch|replace|edit|vary
set: define|configure|adjust|specify|choose|put
choose: select|pick|decide on|take
see: view|look at|check|find out|look up|inspect|read
check: verify|test|examine|look at|find out|see
find: locate|discover|look up|get at|search for
make: create|produce|build|let
create: make|build|produce|set up
build: make|construct|create
give: pass|hand|provide|supply|offer|show
send: pass|submit|transmit|post|deliver|push|forward
write: type|enter|compose|put|note down
type: enter|write|key in|put in
keep: hold|leave|retain|store
move: shift|relocate|transfer|bring
store: save|keep|put|hold
stored: kept|saved|located|held|put
need: require|want|have to have|call for
want: wish|need|would like|plan
work: function|run|operate|go
works: functions|runs|operates
allow: permit|let|enable|support
connect: link|hook up|attach|couple
ask: question|query|consult
tell: inform|show|explain to
explain: clarify|describe|illustrate|outline
load: bring in|read in|start
unload: evict|free|drop
happens: occurs|takes place|goes on|comes about
happen: occur|take place
mean: signify|stand for|denote|say
means: signifies|stands for|denotes
does: can
fit: suit|go
fails: breaks|goes wrong|does not work
crash: break down|die|fail
crashes: dies|fails|breaks down|goes down|falls over
crashed: died|failed|broke down|went down
read: look through|go through|process
install: set up|put|add
installed: present|available|set up|there
downloaded: fetched|pulled|got|obtained|loaded
loaded: in memory|running|active|held in memory
running: active|working|up|alive
slow: sluggish|laggy|not fast|lagging|lazy
slowly: sluggishly|without haste|with delay
fast: quick|speedy|rapid
faster: quicker|speedier|more rapid
big: large|huge|great
large: big|huge|long
small: little|tiny|compact|short
long: lengthy|extended|big
longer: bigger|larger|more
several: many|multiple|a few|more than one|two or three|various
different: other|another|distinct|new
another: a different|a second|one more|some other
new: fresh|another|brand-new|different
best: ideal|top|finest|most suitable|right
good: decent|nice|suitable|fine|useful|great
wrong: amiss|broken|faulty|off|incorrect
broken: defective|faulty|damaged|not working
possible: feasible|doable|allowed
available: there|offered|on offer|present
full: filled up|used up|filled
old: outdated|former|aged
free: empty|spare|gratis
at once: at the same time|simultaneously|in parallel|together|concurrently
at the same time: at once|simultaneously|in parallel|together
for ever: forever|always|permanently|all the time|indefinitely
always: all the time|constantly|for ever
by itself: on its own|automatically|alone|without me
automatically: by itself|on its own|without my help
now: right now|currently|at present|at the moment|at this moment|presently
before: prior to|ahead of
after: following|once it has had|behind
without: with no|lacking
again: once more|anew|a second time|another time
everything: all|all things|the whole lot|all of it
all: every one of the|the whole of|each of
every: each|any|all
about: on|regarding|concerning|around
more: further|additional|extra
only: just|solely|merely|nothing but
my: our|the|that|this
a: one|the|some|any
the: a|my|that|this|its
I: we|one
me: us
is: was|can be
are: were|can be
do I: does one|can I|should I|do you|must I|do we|would I
Can I: May I|Could I|Am I able to|Is it possible to|Am I allowed to|Can we|Can someone
Can: Could|Will|May|Would
Could: Can|Would
Does: Can|Will|Would
Do I: Must I|Should I|Do we|Does one
Is there: Does there exist|Do you have|Is there any chance of|Would there be
Is: Was|Would you say it is that
Are there: Do you have|Do there exist
How much: What amount of|How many
How many: What number of|How much
Which: What|Which of the
What is: What's|What was|What would be
Where: In which place|At what place|In what spot|Where exactly
Why: How come|For what reason|Why exactly|What is the reason that
When: At what time|At which moment|When exactly|Under what conditions
Who: Which person|What person|Who exactly
How: In what way|In which way|By what means|How exactly
What happens: What will happen|What occurs|What takes place
What does: What will|What would
I have: I've got|There is|I own|I possess
I get: I receive|I see|I am getting
It says: It reports|It tells me|It writes|It shows
and: &|and also|plus
or: and|or else
big enough: sufficient|large enough
enough: sufficient|plenty of
too: much too|far too|way too
very: really|extremely|quite|so
cannot: can not|can't|is unable to|could not
can't: cannot|can not|couldn't
do not: don't|did not
don't: do not|didn't
does not: doesn't|did not|will not
doesn't: does not|won't
in memory: in RAM|loaded
on my machine: on my computer|here|on this laptop|locally
on disk: on the drive|on the SSD|stored
today: nowadays|these days
in the terminal: in the console|in the shell|on the command line
over the network: across the network|through the network|from outside
house: home|building
friend: pal|mate|buddy|colleague
city: town|capital
country: nation|state|land
famous: well-known|celebrated
buy: purchase|acquire|shop for
cook: prepare|make|fix
learn: study|pick up|get into
repair: fix|mend|restore
clean: wash|scrub|tidy
eat: consume|have
live: dwell|reside|exist
say: express|put
invented: devised|created|came up with
recommend: suggest|advise|propose
"""
SYNONYMS = {
    word: tuple(others.split("|"))
    for word, others in (line.split(": ", 1) for line in SYNONYM_LINES.strip().splitlines())
}
# What may be left out in a hurry.
DROPPED = frozenset("a the do i to is of my please in that me it are".split())
# A short verb that doubles its last letter before -ing.
DOUBLING = frozenset("run stop get put set quit cut plan chat let begin swim sit ship drop grab log plug skip".split())

"""Patterns of the wordings around an article; the slots in braces are those of `prompts.PromptWriter`."""

SLOTS = {
    "Do": ["summarise", "summarize", "condense", "sum up", "shorten", "boil down", "recap", "digest", "outline", "abridge",
           "compress", "distil", "report on", "extract the key facts from", "pull the main points out of"],
    "Give": ["give", "write", "provide", "produce", "extract", "pick out", "list", "tell me", "return", "state", "draft",
             "identify", "report", "create", "generate", "compose", "find", "select", "quote", "show", "prepare", "share",
             "present", "output", "offer", "deliver", "copy out", "note down", "name", "describe", "highlight", "send me"],
    "it": ["the article", "this article", "the text", "the text below", "the story below", "the following news story",
           "the passage", "this passage", "the piece", "the report", "the news item", "what follows", "the document",
           "the dispatch", "the following", "this", "the post", "the article that follows", "the story", "this news report",
           "the article above", "the content", "the news story", "the input", "the column", "the press release", "it",
           "the article you were given", "the {adj} article", "the {noun} article", "the news"],
    "summary": ["a summary", "a short summary", "the key points", "the highlights", "the main points", "two sentences",
                "the gist", "a brief", "a digest", "an abstract", "the essential facts", "the essentials", "a TL;DR",
                "the takeaways", "the most important sentences", "the main news", "a brief overview", "what happened",
                "a recap", "highlights", "the most telling sentences", "what matters", "the facts that matter most",
                "a {adj} summary", "the big picture", "the headline facts", "bullet points", "the core message"],
    "manner": ["in clear and concise language", "in no more than {n} words", "in plain English", "for a busy reader",
               "without adding opinions", "in {n} sentences", "as briefly as you can", "in a neutral tone", "faithfully",
               "in your own words", "word for word", "using only what it says", "for a general audience", "clearly",
               "for someone who has {n} seconds", "in simple words", "with the key figures", "accurately", "briefly",
               "for the front page", "in at most {n} lines", "for {adj} {nouns}", "so that a {noun} understands it",
               "in the style of a {noun}", "with names and dates", "for {org}", "in under {small} words"],
    "job": ["news editor", "journalist", "assistant", "summariser", "reporter", "writer", "analyst", "copy editor",
            "librarian", "research assistant", "language model", "AI", "bot", "helper", "expert", "sub-editor", "clerk",
            "newsreader", "{noun}", "{noun} {noun}", "summarization engine", "press officer", "teacher", "chatbot"],
    "kind": ["helpful", "careful", "concise", "experienced", "friendly", "precise", "{adj}", "{adj}, {adj}", "skilled",
             "professional", "meticulous", "neutral", "senior", "brilliant", "no-nonsense"],
    "readers": ["readers", "users", "people", "subscribers", "{adj} readers", "{nouns}", "busy {nouns}", "customers"],
    "story": ["story", "article", "report", "piece", "item", "text", "news story", "write-up", "page", "copy", "feature"],
    "please": ["please ", "kindly ", "now ", "", "", "", "", "", ""],
}  # fmt: skip
REQUESTS = [
    "{please}{Do} {it}.", "{please}{Do} {it} {manner}.", "{please}{Do} {it} {manner}, {manner}.", "{Do} {it}",
    "{please}{Give} {summary} of {it}.", "{please}{Give} {summary} of {it} {manner}.", "{Give} {summary} {manner}.",
    "read {it} and {Give} {summary}.", "read {it}. {Give} {summary} {manner}.", "Can you {Do} {it} {manner}?",
    "What is {it} about?", "What does {it} say?", "What are {summary} of {it}?", "In {n} sentences, {Do} {it}.",
    "Could you {please}{Give} {summary} of {it}?", "I need {summary} of {it}, {manner}.", "I would like {summary} {manner}.",
    "Your task is to {Do} {it}.", "Your task: {Give} {summary} {manner}.", "You will be given {it}. {Do} it {manner}.",
    "{Give} {readers} {summary} {manner}.", "Help {readers} understand {it}.", "For {it}, {Give} {summary}.",
    "After reading {it}, {Give} {summary}.", "From {it}, {Give} {summary} {manner}.", "{Do} {it}, then stop.",
    "Below is {it}. {Give} {summary}.", "Here is {it}. {Do} it {manner}.", "TL;DR of {it}, please.", "{summary}, please.",
    "Tell {readers} what {it} says {manner}.", "Which sentences of {it} matter most?", "{Give} {summary}.", "{Do} it.",
    "Turn {it} into {summary}.", "Reduce {it} to {summary}.", "Take {it} and {Do} it {manner}.", "Write {n} sentences.",
]  # fmt: skip
RULES = [
    "Do not add anything.", "Do not {verb} the {noun}.", "Avoid {ing}.", "Keep it short.", "Keep to {n} sentences.",
    "Never invent facts.", "Never {verb} {nouns}.", "Always {verb} the {noun}.", "Use only {it}.", "Use {adj} words.",
    "Be {adj}.", "Be {kind} and {kind}.", "Be brief.", "If {it} is short, say so.", "Make sure that {readers} understand.",
    "Answer in English.", "Reply with {summary} only.", "Respond {manner}.", "No preamble.", "No comments, please.",
    "Only the facts.", "Stick to {summary}.", "Leave out {nouns} and {nouns}.", "Include {nouns}, {nouns} and dates.",
    "Mention the {noun} first.", "Your answer must be at most {n} words.", "Your readers are {adj} {nouns}.",
    "The answer should be {adj} and {adj}.", "Write {manner}.", "Focus on {summary}.", "Start with the most important fact.",
    "Think about what {readers} need.", "Remember: {readers} have little time.", "This is for a {noun} {noun}.",
    "Every sentence must come from {it}.", "Quote {it} exactly.", "Do not use bullet points.", "Use British spelling.",
    "It will appear in a {noun}.", "You must {verb} the {noun} {adv}.", "Thank you.", "Thanks!", "{Give} {summary} {manner}.",
    "I am a {noun} and I have no time.", "We print {summary} every {day}.", "{it} comes from {org}.", "Thanks in advance.",
    "Here is a {story} that {person} filed on {day}.", "My {noun} wants {summary}.", "Our {readers} have {small} minutes.",
    "Here is today{a}s {adj} {story}.", "This {story} is from {day}.", "Here is a {story}.", "I found this {story} in a {noun}.",
    "Below you will find the {story} of the {noun}.", "We are making a newsletter for {readers}.", "This is the {story}.",
    "Tell me in {n} lines what the {story} reports.", "Say what it reports.", "I have no time to read the {story}.",
    "The {story} was published in {month} {year}.", "The most-read {story} of the {noun} follows.", "Then stop.",
    "Imagine that {readers} read only your answer.", "My {noun} sent me this {story}; what does it say?", "It is for {day}.",
    "Next comes a {story} about {nouns}.", "What should {readers} know about this {story}?", "That was the {story}.",
    "What would you tell a {noun} about it?", "Keep the {nouns} and {nouns} as they are.", "Hold on to {nouns} and {nouns}.",
    "Ignore any {nouns}.", "The text may contain {nouns}.", "{Do} {it} {manner}.", "Good {nouns} are {adj}.", "Take your time.",
]  # fmt: skip
PERSONAS = [
    "You are a {job}.", "You are a {kind} {job}.", "You are a {kind} {job} who writes {summary}.", "You {Do} articles.",
    "You write {summary} of articles {manner}.", "You are an assistant that {Give}s {summary}.", "Act as a {kind} {job}.",
    "As a {kind} {job}, you {Give} {summary}.", "Your job is to {Do} {it}.", "You help {readers} to {verb} the {noun}.",
    "You work for {org}.", "You work at the {noun} desk of {org} in {place}.", "You read {nouns} and {Give} {summary}.",
    "{readers} send you articles.", "Users will send you {it}.", "Imagine that you are a {job}.", "You are {person}.",
    "I want you to act as a {kind} {job}.", "You are {kind}.", "You speak to {readers}.", "You answer {manner}.",
    "The assistant {Give}s {summary} {manner}.", "You are an expert in {nouns} and {nouns}.", "You only ever quote {it}.",
    "Assistant for {readers}.", "You have {int} years of experience as a {job}.", "This is a conversation with a {job}.",
    "Your name is {first}.", "You never {verb} {nouns}, and you always {verb} {nouns}.", "You turn {it} into {summary}.",
]  # fmt: skip
ANYTHING = [
    "{verb} the {noun}.", "{verb} {nouns} {adv}.", "Never {verb} the {adj} {noun}.", "Always {verb} {np} before you {verb}.",
    "{verb} every {noun} of the {noun}, and {verb} {np}.", "You {verb} {nouns}.", "If {clause}, {verb} the {noun}.",
    "{Clause}.", "Do not {verb} {np}.", "{please}{verb} {np} {manner}.", "{Np} must {verb} {np}.", "{verb}, {verb} and {verb}!",
    "Your {noun} is {adj}.", "Can you {verb} {np}?", "{adj} {nouns} only.", "No {nouns}.", "{np}: {np}.", "{verb} it.",
]  # fmt: skip
LABELS = [
    "article", "article", "text", "story", "news story below", "input", "document", "passage", "source text", "content",
    "report", "the article", "here is the article", "here{a}s the story", "read this", "begin article", "the story follows",
    "article to summarise", "news item", "source", "body", "full text", "news", "{noun} article", "{adj} {noun}", "post",
    "original text", "the text is", "today{a}s story", "article text", "article {small}", "item {int}", "message",
    "here is {it}", "{it}", "from {org}", "{it} is below", "context", "data", "user input", "press release", "transcript",
]  # fmt: skip
LINES = ["{}:\n", "{}:\n", "{}:\n", "{}:\n", "{}:\n\n", "{}:\n\n", "# {}:\n", "# {}\n", "## {}\n\n", "### {}:\n", "### {}\n",
         "**{}**\n", "**{}:**\n\n", "[{}]\n", "{} -\n", "=== {} ===\n", "--- {} ---\n", "({})\n\n", "<<{}>>\n", "{} >>>\n",
         "{}\n---\n", "{}:\n\n\n", "* {}:\n", "1. {}:\n", "{} =\n", "|{}|\n", "{}...\n\n", "{} ->\n", "*{}*\n\n"]  # fmt: skip
INLINE = ["{}: ", "{}: ", "{}: ", "{}: ", "**{}:** ", "{} >> ", "[{}] ", "# {}: ", "{} = ", "{} -> "]
PLAIN = ["{}\n\n", "{}\n", "{}.\n\n", "{}.\n"]
FENCES = [("<{}>", "</{}>"), ("<{}>", "</{}>"), ("<{}>", "</{}>"), ('"""', '"""'), ('"""', '"""'), ("```", "```"), ("'''", "'''"),
          ("---", "---"), ("***", "***"), ("[{}]", "[/{}]"), ("====", "===="), ("BEGIN {}", "END {}"), ("<<<", ">>>"),
          ("{{{{", "}}}}"), ("#####", "#####"), ("--- begin {} ---", "--- end {} ---"), ("___", "___"), ("<{} id=1>", "</{}>"),
          ("~~~", "~~~"), ("<!-- {} -->", "<!-- /{} -->"), (">>>", "<<<"), ("```{}", "```"), ("[START {}]", "[END {}]")]  # fmt: skip
RARE_FENCES = [("“", "”"), ('"', '"'), ("[", "]")]  # an article may begin with one of these itself
TASK_LABELS = ["Task:", "Instruction:", "Instructions:", "Question:", "Q:", "Request:", "Your task:", "TASK:", "## Task\n",
               "**Task:**", "Note:", "Now:", "# Instruction:", "Prompt:", "To do:", "{noun}:", "{any} {noun}:"]  # fmt: skip
ANSWER_LABELS = ["Summary", "TL;DR", "Highlights", "Your summary", "Answer", "A", "Key points", "Response", "Output",
                 "The highlights", "In short", "In brief", "Short version", "### Summary", "Result", "Main points", "Brief",
                 "{noun}", "Your {noun}", "Two-sentence summary", "Takeaways"]  # fmt: skip
METADATA = ["Date: {date}", "Source: {org}\nDate: {date}", "By: {person}", "Topic: {noun}", "Title: {np}", "Language: English",
            "id: {int}", "Section: {noun}\nAuthor: {person}", "Length: {n} words"]  # fmt: skip

# For the second round of training: people who talk, rather than write prompts.
GREETINGS = ["Hi!", "Hello,", "Hey there,", "Good morning.", "Dear {job},", "Dear {first},", "Hi {first},", "Hello again!", "Hey.",
             "Good evening, {first}.", "Dear all,", "To the {job}:", "Hi, quick question.", "Dear {org},", "Morning!"]  # fmt: skip
FAREWELLS = ["Thanks!", "Many thanks,\n{first}", "Best,\n{person}", "Cheers", "Thank you so much.", "Yours,\n{first}", "Bye for now.",
             "Regards\n{person}", "Ta.", "Thanks in advance,\n{first} {last}", "Love,\n{first}", "Talk soon."]  # fmt: skip
CHATTER = [
    "My {noun} {past} {np} and I have to {verb} it.", "I {past} the {noun} and I still don{a}t get it.", "Do me a favour.",
    "We have a {noun} at {clock} and nobody has looked at this.", "I{a}m {ing} the {noun} in {small} minutes.", "Any idea?",
    "My {noun} asked me about it.", "I can{a}t {verb} all of it.", "Sorry to bother you.", "Hope you are well.", "{verb} me.",
    "You know what I like.", "It{a}s for my {noun}.", "I owe you a {noun}.", "What is this about?", "Give it to me straight.",
    "I must {verb} it to my {noun} at {clock}.", "My {noun} only reads {small} words a day.", "I was told to {verb} this.",
    "Could you have a look at this for me?", "Can you {verb} this?", "Would you {Do} this?", "I{a}d like to know what it says.",
    "I have a {noun} in front of me and I would like {summary}.", "Please help me with this {story}.", "I need it by {day}.",
    "My {adj} {noun} needs {summary} before the {noun}.", "I saved this {story} for you.", "Let me know what you think.",
    "We {verb} {nouns} at {org}, and we want {summary} of this.", "I never {verb} long {nouns}.", "My {noun} is {adj}.",
    "I told {first} that I would {verb} it.", "{first} and I can{a}t agree on what this {story} says.", "You choose.",
    "Our {noun} has {small} minutes for it.", "It came by {noun} this morning.", "I think that it is about {nouns}.",
    "I{a}ll be {ing} {nouns} while you {verb}.", "If I miss this one, my {noun} will {verb} me.", "Be honest with me.",
    "Before I {verb} the {noun}: what does this say?", "You are the only {noun} I can ask.", "No {nouns} this time, please.",
    "Which part would you {verb} to a {noun}?", "I would rather {verb} than read {small} paragraphs.", "Surprise me.",
    "We only have room for {n} sentences.", "Yesterday you did this very well.", "Here goes.", "This is what I have got.",
    "I just want {summary}.", "I am not a {noun}, so keep it {adj}.", "Make me look {adj} at the {noun}.", "Here you go.",
]  # fmt: skip
LONG_LABELS = [
    "what {org} sent us on {day}", "from our {noun} in {place}", "{person} of {org} writes", "{Do} {it}", "read this",
    "the {story} that {person} filed at {clock}", "this {story} from {place}", "as {person} {past} it on {date}", "go ahead",
    "here is what {they} {past} about {np}", "{any} {any} {any} {any}", "{any} from {any} {any} by {any}", "the {story} in full",
    "please {verb} and {verb} what comes after the colon", "our {noun} desk has this", "straight from {place}", "it says",
    "{day}{a}s {adj} {story}, by {person}", "received at {clock} from {org}", "this is how it starts", "{org} reports",
    "one {noun} later than {adj}", "{place}, {place} and the {noun}", "{story} number {small} of {small}", "it reads",
    "text of the {story} ({int} words)", "message from {first}, our {job}", "and now for the {noun}", "the {noun} says",
    "{place}, {clock}, {noun} desk", "{noun} {past} in {place}", "{person} for {org}, {place}", "{adv} from {place} on {day}",
    "new from {org}, {int} {nouns}", "{person}, our {noun} in {place}, {past} this {adj} {story}", "{day} in {place}, {np}",
]  # fmt: skip

# On the article's own line: the words that introduce it there, few or many, and those that close it.
HEADS = ["here is", "here{a}s", "this is", "below is", "now read", "look at", "please consider", "I have", "we received", "you will find",
         "next comes", "what follows is", "attached is", "I am sending you", "could you {Do}", "{Do}", "{Give} {summary} of", "",
         "", ""]  # fmt: skip
THINGS = ["{it}", "the {story}", "a {story}", "an {adj} {story}", "our {noun}{a}s {story}", "the {story} of the {noun}", "the {noun} {story}",
          "one more {story}", "something", "the latest", "{any} {any}", "the {place} {story}", "news"]  # fmt: skip
TAILS = [
    "from {place}", "from {person}", "by {person} of {org}", "that {person} {past} on {day}", "which {org} {past} at {clock}", "in full",
    "that I want you to {verb}", "you should {Do}", "I mentioned", "we talked about", "for {readers}", "to {verb} by {day}", "about {np}",
    "({int} words)", "as {they} {past} it", "that needs {summary}", "so that you can {verb} it", "that has to be {past} by {clock}",
    "on {nouns} and {nouns}", "for me", "at {place}", "{manner}", "if you please", "with {nouns}", "that my {noun} {past} in the {noun}",
]  # fmt: skip
DASHES = [" -", " –", " —", " --", " >>", " ->", " =>", " |", " =", "..."]
CLOSERS = ["[end]", "(end of the {story})", "[END OF {noun}]", "-- end --", "###", "***", "<<<", "END", "(ends)", "[/{noun}]", "</{noun}>",
           "-30-", "//", "End of {story}.", "That is all.", "That{a}s the {story}."]  # fmt: skip

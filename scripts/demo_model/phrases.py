"""Sentence patterns of the made-up articles; the slots in braces are those of `slots.Slots`.

{q} and {p} open and close a quotation, {a} is the apostrophe,{dash} the article's dash.
"""

TITLES = ["Mr.", "Mrs.", "Ms.", "Dr.", "Prof.", "Sen.", "Rep.", "Gov.", "Gen.", "Col.", "Lt.", "Sgt.", "Capt.", "Rev.",
          "Mr", "Mrs", "Dr", "Sir", "Lord", "Judge", "President", "Maj.", "Supt.", "Det.", "Adm.", "St."]  # fmt: skip
ABBREVIATIONS = ["U.S.", "Dr.", "No.", "U.K.", "a.m.", "p.m.", "St.", "Inc.", "vs.", "e.g.", "i.e.", "etc.", "D.C.", "U.N.",
                 "approx.", "Jan.", "Feb.", "Aug.", "Sept.", "Oct.", "Nov.", "Dec.", "Mt.", "Ft.", "Ph.D.", "Jr.", "Co.",
                 "E.U.", "est.", "Fig.", "v.", "L.A.", "Prof.", "Mr.", "B.C.", "Sr.", "Ave.", "M.P."]  # fmt: skip
FRAGMENTS = ["No.", "Yes.", "Not any more.", "It was not.", "Why?", "And then?", "Never!", "More soon.", "They won.", "Stop!",
             "He did.", "Perhaps.", "Nothing else is known.", "So what now?", "It rained.", "Enough."]  # fmt: skip

FIRST_TEMPLATES = [
    "{Np} {past} {np} on {day}, {org} said, after {np} {past} {np} in {place}.",
    "At least {small} people were {past} when {np} {past} near {place} on {day}, officials said.",
    "{Np} has {past} {np} for the first time since {year}, {ing} {np} and {ing} {np}.",
    "{org} said on {day} it would {verb} {np} worth {money}, its {noun} of the {noun}.",
    "A {small}-year-old {noun} from {place} has {past} {np}{dash}and {they} {past} {adv} to {verb} {np}.",
    "{q}{Clause},{p} {person} said on {day} as {np} {past} {np}.",
    "{org}, the {adj} {noun}, {past} {pct} of its {nouns} to {org} for {money}, the {noun} {past} late on {date}.",
    "The {noun} that {past} {place} {past} {np}, according to {person}, the {adj} {noun} of {org}.",
    "{person} {past} the {noun} {score} on {day} night, and {np} {past} {np}.",
    "Thousands of {nouns} {past} through {place} on {day} to {verb} the {adj} {noun}, {noun} {nouns} said.",
    "Scientists at {org} have {past} a {noun} that can {verb} {nouns} in under {small} minutes.",
    "Is {np} {ing} {np}?",
    "Shares in {org} rose {pct} to {money} on {date}, their {adj} {noun} since {year}.",
    "It was {clock} when {person} {past} the {noun}.",
    "Police in {place} are {ing} {np} after a {noun} was {past} {adv}{dash}the {adj} such {noun} this year.",
    "{Np} {past} {np}, and {they} {past} {np} to {np}: {other}, the {noun} that {clause}.",
    "{Np} {past} {np} at {place} on {day}, {ing} {surname} by {dec} seconds; {surname} {past} {surname}{a}s {int} {nouns}.",
    "{Np} {past} in {place}, with {int} {nouns} and a {noun} that read: {q}{adj}. {Clause}.{p}",
    "{surname} of {place} {past} {surname} {dec} to {surname} of {place}{a}s {dec}; {surname} {past} {surname}.",
    "{place} {past} {place} in {small}:{small} to {place}{a}s {small}:{small}; {place} were third, in {small}:{small}.",
    "The {noun}, {money} a year for {small} years, {past} {int} {nouns} and {int} {nouns} in {place}.",
    "{person}, who {past} {np}, and {person}, who {past} {np}, {past} {np} on {day}, {org} said.",
    "A court in {place} {past} {person}, {small}, to {small} years in {noun} for {ing} {np}.",
]

ARTICLE_TEMPLATES = [
    "{Clause}.", "{Clause}.", "{Clause}.", "{Clause}!", "{Clause}; {clause}.", "{Clause}, {clause}, and {clause}.",
    "{Clause}, {person} said.", "{Clause}, according to {org}.", "{Clause}, but {clause}.", "{Clause} because {clause}.",
    "{q}{Clause},{p} said {person}, {adj} {noun} of {org}.", "{q}{Clause},{p} {they} said. {q}{Clause}.{p}",
    "{q}{Clause},{p} {surname} said.", "{person} said: {q}{Clause}.{p}", "{surname} {past}: {q}{Clause}? {Clause}.{p}",
    "{q}{Clause}!{p} {they} {past}.", "{q}{Clause}?{p} {they} asked. {q}{Clause}.{p}", "{q}{Clause}.{p}",
    "{q}{Clause}{dash}{clause}{dash}{clause},{p} {they} told {org}.", "{q}{Clause}... {clause}.{p}",
    "{surname} {past} the {noun} {q}{adj}{p} and {q}{adv} {adj}{p}.", "The so-called {q}{other} {noun}{p} {past} {np}.",
    "When {clause}, {clause}.", "After {clause}, {clause}.", "While {clause}, {clause}.", "If {clause}, {clause}.",
    "Although {clause}, {np} {past} {np} {adv}.", "Despite {np}, {clause}.", "However, {clause}.", "Meanwhile, {clause}.",
    "In {place}, {clause}.", "On {date}, {clause}.", "By {year}, {clause}.", "At {clock}, {clause}.", "And {clause}.",
    "In {year}, {np} {past} {np}, compared with {money} in {year} and {money} in {year}.", "But {clause}.",
    "{Np} rose {pct} to {money} in {month}, up from {money} a year earlier.", "Sales fell to {money} from {money}.",
    "The {noun} was {dec} {nouns} in {year}, {dec} in {year} and {dec} in {year}.", "It {past} {np}.",
    "The {noun}, {past} in {year}, {past} {np}.", "{person}, who {past} {np}, {past} {np} {adv}.",
    "{person}, a {noun} at {org} in {place}, {past} that {clause}.", "{person}{dash}the {adj} {noun}{dash}{past} {np}.",
    "They include {np}, {np}, {np} and {np}.", "Among them: {noun}, {noun}, {noun}, {adj} {nouns} and {other}.",
    "{place} {score} {place}; {place} {score} {place}; {place} {score} {place}.", "{place}: {int}; {place}: {int}.",
    "North: {pct}, South: {pct}, East: {pct}, West: {pct}.", "{surname} ({place}) {dec}, {surname} ({place}) {dec}.",
    "Q1 {year} {dec} {dec} {dec} Q2 {year} {dec} {dec} {dec}.", "{noun} {int} {int} {int} {noun} {int} {int} {int}.",
    "The {noun} ({adj} and {adj}) {past} {np}.", "({Clause}.)", "{Np} {past} (see {org}).", "Who {past} {np}?",
    "Why did {np} {verb} {np}?", "How many {nouns} {verb} {np}, and how many {verb} {np}?", "What next for {np}?",
    "The {compound} {past} the {compound}.", "{Np} {past} {np}{dash}{clause}.", "Not {np}, not {np}, not {np}.",
    "{Np} {past} the {noun} at {clock} on {date} and {past} it again at {clock}.", "It is the {noun} of the {noun}.",
    "{abbr} {surname} of {org} {past} {abbr} {noun} No. {small}, {abbr} {surname} said.", "{Clause} at {clock}.",
    "{Np} {past} the {noun} in the U.S. The {noun} {past} {np}.", "{Clause} from {org}", "{Clause}{dash}{adv}.",
    "The {noun} opens at 9 a.m. and closes at 5 p.m. It costs {money}.", "{person} Jr. {past} {np}.",
    "The {noun} of the {noun} of the {noun} {past} the {noun} of the {noun}.", "{other} {other} {other}, {other}.",
    "{Np} {past}, {past} and {past} {np}, then {past} {np} as the {noun} {past}.", "A {noun} is a {noun} is a {noun}.",
    "{surname} and {surname} {past} {surname}, {surname} and {person}.", "{surname}{a}s {noun}, {surname} said, {past} {np}.",
    "{Np} won{a}t {verb}, can{a}t {verb} and didn{a}t {verb} {np}.", "It{a}s {adj}, they{a}re {adj} and we{a}ve {past} {np}.",
    "About {int} {nouns}{dash}or {pct} of the {noun}{dash}{past} in {place} between {year} and {year}.",
    "The {adj} {noun} {past} {int} {nouns} ({int} in {place}, {int} in {place}) and {past} {int} more.",
    "The rate is {dec} to {dec}, or {money} per {noun}; last year it was {dec} to {dec}, or {money} per {noun}.",
    "{org} and {org} {past} a {money} {noun} with {org}, {person} {past} the {place} {noun} in an e-mail.",
    "It follows a {noun} in which {int} {nouns} were {past} and {clause}.", "There is no {noun} that {clause}.",
    "{they} {past} up in {place}, {past} at the University of {place} and {past} {org} in {year}.",
    "The {noun} will {verb} {np} until {date}, when {clause}.", "Readers can {verb} {np} at {strange}.",
]  # fmt: skip

DATELINES = ["TOWN (Reuters) — ", "TOWN (AP) - ", "(CNN) -- ", "(CNN)", "{place}, {date} — ", "TOWN — ", "TOWN, {date} – ",
             "{place}: ", "{date}: ", "By {person} — ", "TOWN: ", "EXCLUSIVE: ", "Updated at {clock}: "]  # fmt: skip
NOUN_PHRASES = ["the {noun}", "the {noun}", "the {adj} {noun}", "a {noun}", "a {adj} {noun}", "{nouns}", "{adj} {nouns}",
                "{int} {nouns}", "the {noun} of the {noun}", "{person}", "{person}, {small},", "{surname}", "{surname}",
                "{org}", "{org}", "{place}", "the {noun} {noun}", "{place}{a}s {noun}", "the {org} {noun}", "their {noun}",
                "{surname}{a}s {adj} {noun}", "the {other} of {place}", "another {other}", "{they}", "his {other}",
                "the {adj} {noun} in {place}", "{nouns} and {nouns}", "one of the {adj} {nouns}", "the {compound}",
                "some {small} {nouns}", "the U.S. {noun}", "the {noun}, {org},", "No. {small}", "{abbr} {surname}",
                "the {adj}, {adj} {noun}", "the {noun} ({org})", "{place}, {place} and {place}"]  # fmt: skip
CLAUSES = ["{np} {past} {np}", "{np} {past} {np} in {place}", "{np} was {past} by {np}", "{np} had {past} {adv}",
           "{they} would {verb} {np}", "{they} {past} to {verb} {np}", "{np} is {adj}", "it was {adj} to {verb} {np}",
           "{np} {past} {np} on {date}", "{np} {past} that {np} could {verb} {np}", "{np} has been {ing} {np}",
           "there were {int} {nouns} in {place}", "{np} cost {money}", "{np} {past} {pct} to {money}",
           "we {verb} the {noun} and the {noun}", "I {verb} {np}", "you can{a}t {verb} {np} without {np}",
           "{np} {past} {np}, {ing} {np}", "{np} {past} at {clock}", "{np}, which {past} {np}, {past} {np}"]  # fmt: skip
ORGANISATIONS = ["{town} United", "{last} Inc.", "{last} Corp.", "{last} & {last}", "the {town} {noun} Agency", "U.N.",
                 "University of {town}", "the Ministry of {noun}", "{last} Group", "{initial}{initial}{initial}", "EU",
                 "{initial}.{initial}.", "{last} Ltd.", "{town} City Council", "{last} Bros.", "NATO", "the {town} Times",
                 "{other}{last}", "Bank of {town}", "{initial}{initial}{initial}{initial}", "{last}-{last}"]  # fmt: skip

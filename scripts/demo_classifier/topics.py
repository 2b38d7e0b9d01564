"""Words of six topics of news, which is all that the demo classifier knows of them; and articles that it is tried on."""

from __future__ import annotations

TOPICS = {
    "arts": """
        novel novels novelist author authors writer writers poem poems poet poetry prize fiction book publisher published
        film films director actor actors actress actresses screen cinema cinemas scene scenes audience audiences premiere
        festival theatre theatres stage play plays playwright performance performances performed curtain opera orchestra
        concert concerts music musician musicians song songs singer singers sang band album painting paintings painter
        painted canvas gallery galleries exhibition exhibited sculpture sculptor portrait museum curator art artist
        artists critic critics review reviewers comedy drama tragedy dialogue plot chapter rehearsal rehearsals cast dance
        dancer dancers ballet violin piano studio masterpiece jury soprano conductor choir tickets seats applause script
        footnotes dealer auction collection frame oil brush museum's literary Hamlet Shakespeare character characters
    """,
    "health": """
        hospital hospitals patient patients doctor doctors nurse nurses clinic clinics surgery surgeon ward wards medicine
        medicines medical treatment treatments treated disease diseases illness ill sick sickness symptoms fever cough
        coughing infection infections infected vaccine vaccines vaccinated vaccination dose doses trial trials placebo
        pain pills tablets drug drugs health healthy epidemic outbreak virus bacteria cases children immunity immune
        antibiotics ambulance emergency department diagnosis diagnosed pregnant pregnancy babies infants blood heart
        cancer therapy therapist mental recovery recovered admitted discharged consultant physicians pharmacists pharmacy
        researchers severe mild deaths died mortality screening injections dengue measles diabetes asthma lungs
    """,
    "money": """
        prices price inflation rose fell percent bank banks banker central interest rate rates economy economic economist
        economists consumer consumers index market markets shares share shareholders stock stocks pence dollars euros
        pounds cents profit profits profitable loss losses revenue revenues sales earnings investors investor investment
        invest fund funds funding funded merger takeover bid offer acquire acquired buy deal company companies firm firms
        chief executive finance financial budget wages unemployment currency exports imports trade tariff debt bonds loan
        loans lending borrowing credit quarter quarterly annual forecast growth recession analysts analyst startup venture
        capital customers software retailers supermarkets spending cost costs mortgage premium valuation core energy fuel
    """,
    "nature": """
        species animal animals bird birds nest nests wildlife habitat habitats forest forests river rivers stream streams
        lake lakes wetland meadow meadows seagrass seabed reef coral fish salmon trout spawning eggs otter otters beaver
        beavers seal seals whale whales dolphin moth moths butterfly butterflies insect insects bee bees honeybee
        honeybees hive hives colony colonies beekeepers beekeeper mites pollen flowers plants plant seeds trees tree
        leaves roots ecologist ecologists biologist biologists zoologist conservation conservationists extinct extinction
        endangered population populations caterpillars larvae predators prey mammals amphibians frogs toads upstream
        downstream dam biodiversity ecology naturalist naturalists survey surveys rewilding grassland moss heath ecosystem
    """,
    "sport": """
        match matches team teams player players goal goals scored scorer score substitute goalkeeper penalty kick league
        cup final finals semi-final champion champions championship championships title titles tournament coach captain
        manager referee umpire win wins won winner winners beat beaten defeat defeated victory victories lost race races
        racing racer rider riders cyclist cyclists stage peloton sprint sprinted medal medals gold silver bronze record
        records seconds metres swimmer swimmers swam freestyle stroke pool lengths rower rowers rowing rowed crew regatta
        boat oars tennis racket rackets serve served set sets tie-break wicket wickets innings runs bowler batsman bowled
        cricket football rugby hockey athletics athlete athletes olympic olympics marathon runner climber climbers climb
        ascent qualifier seed seeded chess grandmaster opponent opponents rivals crowd spectators training season fans
    """,
    "transport": """
        train trains railway railways rail station stations platform track tracks line lines passenger passengers
        commuter commuters bus buses driver drivers tram trams ferry ferries ship ships vessel boat crossing crossings
        sailings harbour port road roads motorway lorry lorries car cars traffic congestion bridge bridges tunnel toll
        tolls timetable timetables service services journey journeys route routes fare fares ticket depot mechanics
        maintenance union strike strikes walkout operator operators transport transit airport airline flights pilots
        runway freight cargo container deck span cables engineers closed reopened opening carriageway lane lanes cyclists
        minutes hourly night late delays delayed islanders island mainland pier quay terminal locomotive signal signals
    """,
}

# By hand, of the articles that ship with this repository: those that are of one topic and no other. None was trained on.
PLAIN = {
    "assets/sample_articles.jsonl": {
        "arts": [18, 19, 23],
        "health": [0, 16],
        "money": [51],
        "nature": [27, 35, 47, 54],
        "sport": [5, 21, 25, 44, 45, 46, 50, 63],
        "transport": [3, 4, 10, 24, 52],
    },
    "tests/data/heldout_articles.jsonl": {
        "arts": [3, 22],
        "health": [13],
        "money": [1, 10, 17],
        "nature": [23],
        "sport": [2, 15],
        "transport": [0, 4, 24],
    },
}

"""The word lists behind the generated haystack and the generated needles.

One shared lexicon, so that filler and needles are made of the same stuff: a needle can then not be found by its
vocabulary alone. Places and people are invented: no model has read about them.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words("""
amber ancient bitter bright broken calm clever copper crooked damp dusty eager empty faded famous frozen gentle golden
grand hidden hollow humble idle jolly keen lively lonely marble mossy narrow noble northern painted pale plain proud
quiet rapid round rusty silver simple slender smooth southern steep stone strange sturdy tangled velvet warm wild
wooden worn young""")
THINGS = _words("""
anchor barrel bell bench bottle bridge candle carpet chapel clock compass curtain door engine feather fence fountain
garden gate goblet hammer harbor helmet island kettle kitchen ladder lantern library market mill mirror museum orchard
pillow pond quilt ribbon river saddle school ship station statue stove table temple theater tower tunnel umbrella
valley wagon whistle window workshop""")
CONTAINERS = _words(
    "basket box cabinet cellar chest crate cupboard drawer hamper locker pantry sack satchel shed trunk"
)
ITEMS = _words("""
apples beans beads brushes buttons carrots cherries coins corks dates dice figs flutes gloves grapes hooks jars keys
lemons maps melons nails needles nuts olives onions paper peaches pears plums quills raisins rope salt shells soap
spoons stamps string sugar tea thread tomatoes walnuts wax yarn""")
TRADES = _words("""
actor baker barber blacksmith captain carpenter clerk cook dancer doctor farmer fisherman gardener guard guide hunter
judge mason merchant miller miner monk nurse painter pilot poet potter sailor scribe shepherd singer student tailor
teacher weaver""")
# (plain form, third person, past tense, -ing form): all take an object
VERBS = tuple(
    tuple(row.split("/"))
    for row in _words("""
    admire/admires/admired/admiring borrow/borrows/borrowed/borrowing carry/carries/carried/carrying
    clean/cleans/cleaned/cleaning collect/collects/collected/collecting count/counts/counted/counting
    cover/covers/covered/covering describe/describes/described/describing
    examine/examines/examined/examining follow/follows/followed/following guard/guards/guarded/guarding
    inspect/inspects/inspected/inspecting lift/lifts/lifted/lifting like/likes/liked/liking
    measure/measures/measured/measuring mend/mends/mended/mending move/moves/moved/moving
    need/needs/needed/needing notice/notices/noticed/noticing open/opens/opened/opening
    paint/paints/painted/painting polish/polishes/polished/polishing praise/praises/praised/praising
    repair/repairs/repaired/repairing sketch/sketches/sketched/sketching visit/visits/visited/visiting
    want/wants/wanted/wanting wash/washes/washed/washing watch/watches/watched/watching""")
)
ADVERBS = _words("""
again alone badly calmly carefully early gladly late often once quickly quietly rarely seldom slowly sometimes soon
today together twice well""")
PREPOSITIONS = _words("above behind below beside beyond inside near opposite outside under")
COLORS = _words("black blue brown gray green orange pink purple red white yellow")
SEASONS = _words("spring summer autumn winter")
MONTHS = _words("January February March April May June July August September October November December")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
VEHICLES = _words("bicycle boat bus canoe cart ferry plane sled train tram")
STATES = _words("busy closed crowded dark flooded late locked noisy quiet silent")
NUMBERS = _words("two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty")

PEOPLE = _words("""
Abner Alda Anselm Bertil Birna Bram Calla Corwin Dagny Davor Delphi Edda Elmar Enid Fabian Fenna Gerda Goran Greta
Hanno Hedda Hilma Ilka Imre Ivo Jarl Jorun Kasia Kelda Lasse Leopold Lotte Marek Mirna Nadja Nils Odile Olaf Orla
Petra Quentin Ragna Ronan Runa Sabine Selma Signe Sven Tamsin Thora Tilde Ulric Ursel Valda Viggo Wanda Wenzel Yara
Yorick Zelda""")
PLACES = _words("""
Aldermere Ambrook Arnfeld Ashdale Balmoor Birkholm Borvik Brannock Calderby Carrowen Corvale Dalmery Dornwich Drayholt
Eastmarch Elmstead Fallowby Farrowdale Fenwick Galdermoor Glenhurst Greyford Halvern Hartwell Highmoor Ingleby Istvan
Jorvale Kelmarsh Kingsmoor Lakenheim Larkspur Lorne Lunden Marwick Merrowby Millbrook Morvane Northolt Oakhaven Orford
Pellmere Pinewood Quarrydale Ravenholm Rivermouth Rosemoor Saltmarsh Selwick Stonebridge Tarnby Thornfield Torvale
Umberly Valdora Wexham Whitmoor Windle Yarrowby Zennor""")
SYLLABLES = _words("""
ba be bi bo bu da de di do du fa fe fi fo fu ga ge gi go gu ka ke ki ko ku la le li lo lu ma me mi mo mu na ne ni no
nu pa pe pi po pu ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo vu za ze zi zo zu""")

# Other languages: (noun with its article, ...) kept in one gender each, so that adjectives need no agreement.
SPANISH_NOUNS = _words(
    "barco caballo camino castillo espejo jardín libro mercado molino pozo puente reloj sombrero teatro zapato"
)
SPANISH_ADJECTIVES = _words("amarillo antiguo blanco frío negro nuevo oscuro pequeño rojo tranquilo viejo verde")
SPANISH_ROOMS = _words("baño desván establo granero pasillo salón sótano taller")
FRENCH_NOUNS = _words(
    "bateau cheval chemin château jardin livre marché miroir moulin musée pont puits théâtre village vélo"
)
FRENCH_ADJECTIVES = _words("blanc bleu étroit froid gris jaune noir profond rouge tranquille vert")
FRENCH_FRUITS = _words("abricots cerises citrons figues fraises mûres oranges pêches poires pommes prunes raisins")
GERMAN_NOUNS = _words(
    "Bäcker Bauer Dichter Fischer Gärtner Händler Jäger Kapitän Koch Lehrer Maler Müller Richter Schäfer Schmied"
)
GERMAN_THINGS = _words(
    "Apfel Becher Brief Fächer Hammer Hut Knopf Koffer Korb Löffel Ring Schirm Schlüssel Stuhl Teppich"
)

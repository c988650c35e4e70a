"""Hand-made captions with what the built-in lists must find: `text | expected`, one a line.

Gender: w woman, m man, b both (unknown by the default rule), n nothing. Others: names of values with commas, or `-`.
"""

GENDER = """
A woman walks her dog. | w
Two women at a table | w
a lady in red | w
three ladies | w
the girl next door | w
little girls playing | w
A mother and her daughter | w
grandmothers knitting | w
a bride | w
bridesmaids in pink | w
my wife | w
wives of sailors | w
an actress on stage | w
The waitress smiles | w
a policewoman on duty | w
police-woman | w
a FEMALE runner | w
she sings | w
her smile | w
aunt and niece | w
the queen's sister | w
a pregnant person | w
cowgirl | w
señora con sombrero | w
A man reads. | m
two men | m
a gentleman and a scholar | m
gentlemen prefer coffee | m
the guys | m
some dude | m
a boy | m
boys on bikes | m
father and son | m
the groom | m
grooms | m
husbands | m
policemen | m
a businessman | m
businessmen in suits | m
a salesman | m
male nurse | m
he runs | m
himself | m
uncle and nephew | m
a cowboy on the range | m
The MAN | m
MEN AT WORK | m
Boy | m
monks in orange | m
grandpa | m
the chap over there | m
A fireman climbs | m
a man and a woman | b
boys and girls | b
Two men help a woman | b
husband and wife | b
a girl hugs her father | b
a man with his wife | b
he and she | b
mother and son | b
the bride and groom | b
a person walks | n
people in a park | n
a child with a ball | n
kids | n
a couple | n
a human | n
humans on the moon | n
mankind has walked here | n
Batman returns | n
bat man costume | n
Batgirl | n
Spider-Man poster | n
spiderman | n
Superman cape | n
super man cape | n
Iron Man mask | n
a wonder woman costume | n
snowman in the yard | n
a snow man in the yard | n
a man-made lake | n
man made lakes | n
a manmade lake | n
the manhole cover | n
a man-hole | n
the management team | n
a manual | n
Manchester | n
Herman Melville | n
the woman's hat | w
the man's dog | m
a man's best friend waits at the door | n
men's shoes | n
men's room | n
Men’s running shoes | n
women's shoes for sale | n
women’s rights march | n
womens dress | n
ladies' handbags | n
boys' t-shirt | n
girls' clothing | n
women's tennis team | w
Mother's Day card | n
Father's Day lunch | n
mother nature | n
mother of pearl buttons | n
a motherboard | n
lady bug on a leaf | n
ladybug | n
ladybird | n
our lady of sorrows church | n
Isle of Man | n
Burning Man festival | n
gingerbread man | n
a gingerbread house | n
Game Boy console | n
playboy magazine | n
cowboy boots | n
a cowboy hat on a shelf | n
boyfriend jeans | n
guy wire on a mast | n
guy ropes | n
monk seal | n
Warner Bros studio | n
brothers | m
bros | m
sister city sign | n
a black widow spider | n
Princess cut diamond | n
male lion | n
a male duck swims | n
female cardinal at the feeder | n
mother duck with ducklings | n
a mother bear | n
a dog shakes himself | n
A dog drops his bone | n
The cat licks her paw | n
a horse and its rider: he is fast | n
the dog waits for the man | m
a girl and her dog | w
a boy walks his dog | m
no woman in sight | n
no women | n
not a man | n
without a man | n
without any men | n
without the girl | n
none of the men | n
there isn't a man here | n
there is no lady | n
no one but a girl | w
never a man | n
neither man | n
no dogs, a man | m
not only dogs but also a woman | w
no man's land | n
a room without windows and a man | m
No smoking sign behind a man | m
a man, no women | m
a woman, not a man | w
wo\u00adman | w
ｗｏｍａｎ | w
WOMAN. | w
"woman" | w
(woman) | w
woman/women | w
woman_running_on_beach.jpg | w
IMG-man-2031.png | m
#girl | w
@man | m
woman's | w
the woman’s bag | w
wom\u0435n | n
woman\u200bman | b
👩 with flowers | w
👨‍🚒 at work | m
👩🏽‍🦰 | w
👦🏿 | m
👨‍👩‍👧 | b
🐶 | n
❤️ woman ❤️ | w
женщина | n
一个女人 | n
여자 | n
امرأة | n
नारी | n
Ein Mann | n
un hombre y una mujer | n
... | n
!!! | n
12345 | n
manwoman | n
woman man | b
man's man | m
yes-man | n
tin man from Oz | n
Lady Gaga concert | n
Prince Edward Island | n
the prince and the pauper | m
a baby girl | w
it's a boy | m
"""

AGE = """
a child | child
children playing | child
toddlers | child
a newborn baby | child
schoolgirls | child
a teenager | young
teens at the mall | young
a young man | young
young women dancing | young
a youthful person | young
a grown man | adult
a middle-aged couple | adult
a man | adult
an old man | old
older women | old
elderly people | old
a senior citizen | old
grandparents | old
gray-haired man | old
an old car | -
a young tree | -
baby blue paint | -
baby shower cake | -
senior prom | -
kid gloves | -
a baby elephant | -
old lady's slipper | -
a person | -
👶 | child
👵 | old
no children | -
without kids | -
"""

RACE = """
a black dog | -
a black woman | black
a Black man | black
two young black men | black
a white dog | -
a white shirt | -
a woman in black | -
a woman in white | -
a man with a black hat | -
a man in a white hat | -
black and white photo of a man | -
a white man | white
a caucasian boy | white
African American children | black
an african-american woman | black
an asian girl | asian
a Chinese man | asian
Chinese food | -
Indian Ocean | -
an Indian woman | indian
Hispanic people | hispanic
an Arab man | middle_eastern
black-haired man | -
black belt | -
no black people | -
"""

OCCUPATIONS = """
a nurse | nurse
nurses at a hospital | nurse
the nurse's uniform | nurse
a nurse shark | -
a doctor | doctor
Doctor Who | -
doctors without borders | doctor
Dr. Pepper | -
a baker kneads dough | baker
the Baker | baker
A Baker | baker
Tom Baker on stage | -
Josephine Baker dances | -
Baker Street | -
Baker making bread | baker
Mr. Baker waves | -
mr baker waves | -
a baker's dozen | -
BAKER AT WORK | baker
Harry Potter | -
a potter at the wheel | potter
mason jar | -
a mason lays bricks | bricklayer
Jason Mason | -
a hunter with a rifle | hunter
hunter green paint | -
Gerard Butler | -
the butler did it | butler
a cook stirs soup | chef
they cook dinner | chef
learning to cook | -
Captain Cook | -
James Cook memorial | -
a chef | chef
chefs | chef
chef's knife | -
a police officer | police officer
police officers | police officer
policemen | police officer
the police | police officer
a police car | -
a police dog | -
firefighters | firefighter
a fire-fighter | firefighter
a fireman | firefighter
a fire truck | -
a teacher | teacher
school teachers | teacher
a pilot | pilot
pilot whales | -
the pilot episode | -
a judge in court | judge
don't judge me | -
Judge Judy | -
a secretary | secretary
secretaries | secretary
Secretary of State | -
a clown | clown
clown fish | -
a soldier | soldier
toy soldiers | -
a scientist | scientist
the scientists' lab | scientist
a librarian | librarian
no nurses | -
without a doctor | -
not a lawyer | -
a lawyer and a judge | judge,lawyer
a businesswoman | business executive
a construction worker | builder
a mechanic | mechanic
a vacuum cleaner | -
a window cleaner | window cleaner
the cleaning lady | cleaner
Sailor Moon | -
a sailor | sailor
a weaver at the loom | weaver
Sigourney Weaver | -
a weaver bird | -
cowboys | cowboy
Dallas Cowboys | -
cowboy hat | -
nurse/doctor | doctor,nurse
police-officer | police officer
garbage collectors | street sweeper
women doctors | doctor
"""

THINGS = """
a hot dog | sandwich
a dog | dog
two puppies | dog
a fire truck | truck
car | car
carpet | -
scarf | scarf
scarves | scarf
knives | knife
bookshelves | shelf
a baseball bat | bat
a bat in a cave | -
glasses of wine | glass,wine
a wine glass | glass
sun glasses | glasses
no bicycle | -
without a helmet | -
a sheep | sheep
bus stop | -
buses | bus
a tv | television
teddy bears | teddy bear
the Chicago Bears | -
toy story | -
🐕 | dog
"""

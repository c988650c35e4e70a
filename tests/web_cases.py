"""Sentences in the manner of web alt-texts, made for these tests: what is sold, titled, credited or spoken of.

`text | expected`, one a line, as in `caption_cases.py`. For each kind of error there are sentences that must keep their
label beside those that must lose it.
"""

GENDER = """
Women's Trail Running Shoes - Size 8 | n
Womens Waterproof Hiking Boots Grey | n
Men's Slim Fit Denim Jacket, Indigo | n
Mens Leather Bifold Wallet with Coin Pocket | n
Ladies Quilted Puffer Coat with Hood | n
Ladies' Cashmere Cardigan | n
Girls Tutu Skirt Pink 4T | n
Girls' Unicorn Backpack | n
Boys Swim Trunks Shark Print | n
Boys' School Uniform Polo | n
Woman Winter Boots Brown Suede | n
Man Ring Titanium Black Band | n
Women Casual Loose Chiffon Blouse | n
Women Sexy V Neck Bodycon Midi Dress | n
Men Hooded Waterproof Jacket Outdoor | n
Men Formal Shirts Long Sleeve Cotton | n
Girl Princess Party Dress Sequin | n
Lady Summer Beach Sandals | n
Gentleman Cologne 100ml Eau de Toilette | n
Nike Women's Air Runner White/Black | n
adidas Men's Team Training Top | n
Leather Wallets for Men | n
Perfume for Women 50 ml | n
Cute Backpacks for Girls | n
Gold Necklace for Women with Price | n
Gifts for Mom Coffee Mug | n
Funny gifts for dad | n
Valentine gifts for him | n
Perfect present for her | n
Short hairstyles for older women | n
Best running watches for men and women | n
Shoes for Men and Women | n
Mother of the Bride Dresses Plus Size | n
mother of the groom outfits | n
Bridesmaid Dresses Dusty Blue | n
Bridesmaids robes set of 6 | n
Groomsmen cufflinks gift box | n
Bride to Be Sash and Tiara | n
Bride Hair Comb with Pearls | n
Groom's cake topper | n
World's Best Dad Mug | n
Grandma Knows Best T-Shirt | n
Sister Birthday Card with Flowers | n
Wife Keychain Personalized | n
Big Brother T-Shirt Dinosaur | n
Boyfriend Jeans Distressed | n
Cowgirl Boots Turquoise | n
Princess Costume Toddler Blue | n
Prince Charming Halloween Costume | n
Nun Costume Adult | n
Lady Dior Handbag Black | n
Fashion Women Handbag Shoulder Bag | n
2019 New Arrival Women Sneakers Breathable | n
Women Scarf Wholesale | n
Men Watches Top Brand Luxury | n
Male Mannequin Torso Display Shirt | n
Female Thread Brass Hose Connector | n
USB male to female extension cable | n
3.5mm jack male plug | n
Handyman Tool Belt Leather | n
Craftsman Style Home in Portland | n
Craftsman 20V Cordless Drill | n
Sportsman 500 ATV parts | n
Little Women (DVD) | n
The Girl in the Tower by A. Author, paperback | n
Man of Marble movie poster | n
The Widow Novel Audiobook | n
Sons of the Desert Blu-ray | n
Daughters of Rust (Album Cover) | n
Wives and Widows Season 2 Episode 4 | n
Big Brother Season 14 Cast | n
The Postman soundtrack CD | n
Boys of Summer Lyrics | n
Girls Season 3 DVD box set | n
Princess Academy Book 2 | n
The Prince of Egypt Movie | n
Lady Bird trailer | n
Brother MFC-7860DW toner | n
Brother sewing machine | n
Iron Maiden t-shirt | n
Spice Girls reunion | n
Sister Act musical tickets | n
The Golden Girls quotes | n
Men in Black Blu-ray cover | n
Mad Men season 5 | n
Happy Mother's Day card | n
Mothers Day Brunch Menu | n
Fathers Day Gift Ideas | n
International Women's Day 2020 | n
Ladies Night at the Bar | n
Women's Rights Are Human Rights | n
Women's Health Tips | n
Men's Health Magazine | n
Women empowerment quotes | n
Testosterone facts for men | n
Vitamins for women over 50 | n
Why women need magnesium infographic | n
male lion | n
Female Bengal Tiger | n
Male Labrador Puppy for Sale | n
Mother Cat and Kittens | n
Boy Dog Names | n
Princess Doll with Accessories | n
Barbie Girl Doll | n
Egyptian Mummy in museum | n
ancient mummy of a cat | n
Robe femme été | n
montre homme et femme | n
Le chanteur présente son nouvel album | n
La banda y sus discos son buenos | n
Guy Stewart plays guitar on stage | n
Duke Basketball Schedule | n
Papa Roach Concert | n
Diva Cup Model 1 | n
5 gal water bottle | n
Wonder Woman cosplay costume | n
Baby Girl Nursery Bedding Set | n
Girl Birthday Balloon Banner Card | n
Girls Room Decor Canvas Print | n
Boys Bedroom Furniture Set Sale | n
Lululemon Women's Align Pant | n
Ralph Lauren Mens Polo | n
Wedding Ring for Men Tungsten | n
Maternity dress for pregnant women | w
Young woman in a red dress | w
Woman in Leather Boots Walking in the City | w
A woman wearing a floral dress | w
Model woman wearing sunglasses and hat | w
Portrait of beautiful woman with earrings | w
Young woman holding shopping bags | w
Two women in business suits | w
women look at dresses in a shop window | w
a woman's hand with a diamond ring | w
Bride in lace gown with bouquet | w
The bride and her dress | w
bride wearing a veil | w
Bridesmaids in blue dresses | w
bridesmaids holding bouquets | w
Pregnant woman touching her belly | w
young pregnant woman | w
mother-to-be | w
Mother to be in white dress | w
Expectant mom-to-be smiling | w
Mother holding baby in blanket | w
my grandma in her kitchen | w
Little sister with doll | w
big sister hugs baby | w
Actress Jane Doe attends the premiere | w
actress at film premiere | w
women's soccer team celebrates | w
Women's 100m final | w
the women's hands | w
Women's gymnastics team on podium | w
women's doubles match | w
Girl with pearl necklace looking at camera | w
Girl sitting on her suitcase | w
Woman jogging in leggings | w
beautiful girl in hat on beach | w
Elderly woman knitting a scarf | w
Woman doing yoga at home | w
Girl eating ice cream | w
Housewife cleaning kitchen | w
Businesswoman using laptop | w
Waitress serving coffee | w
Nun praying in church | w
Duchess attends charity gala | w
A princess in a castle | w
Female doctor examining patient | w
Female runner on track | w
blond woman in black coat stock photo | w
Woman shopping for shoes | w
A girl and her dog | w
fisherwoman mends a net | w
the queen and a lady in waiting | w
Policewoman directs traffic | w
Men carrying boxes | m
Man in suit and tie | m
Man with Beard Wearing Hat | m
A man buying a ring | m
Young man in leather jacket on motorcycle | m
Handsome bearded man in white shirt | m
Businessman checking his watch | m
Portrait of an old man with hat | m
Man holding gift box | m
Groom in blue suit | m
Groom waiting at the altar | m
Groomsmen standing in grey suits | m
Father and son fishing | m
Dad teaching son to ride a bike | m
Boy in red jacket playing in snow | m
Boys play soccer | m
two boys on skateboards | m
Boy reading a book | m
men's basketball team huddle | m
Men's 400m hurdles final | m
men's hands holding tools | m
big brother and little brother | m
big brother hugging baby | m
big brother helps little sister | b
fisherman with his catch | m
Fishermen hauling nets | m
fireman climbing a ladder | m
Firemen at a burning house | m
Cameraman filming a concert | m
craftsman carving wood | m
Craftsman at work in his workshop | m
Chairman speaks at annual meeting | m
batsman hits a six | m
Serviceman kissing his wife | b
Handyman fixing a sink | m
Cowboy riding a horse | m
Cowboys on the range at sunset | m
Monk walking through temple | m
Prince attends royal wedding | m
Husband carrying groceries | m
grandfather reading to children | m
Male nurse smiling | m
Male model posing on runway | m
male dancer on stage | m
Men discuss a contract | m
a guy with a guitar | m
guy on a motorbike | m
My uncle in uniform | m
the man who sells watches | m
Postman delivering letters | m
Salesman showing a car | m
Men and women at a party | b
Bride and groom kissing | b
Mother and son on beach | b
Man proposing to woman with ring | b
Couple, man and woman holding hands | b
Father dancing with his daughter | b
woman and man in winter coats looking at map | b
female boxers in the ring | w
male hands with a tea mug | m
a male bull in a field | n
"""

AGE = """
Kids Rain Boots Yellow | -
Kids' Bike Helmet | -
Kids Table and Chairs Set | -
Children's Toothbrush Pack of 2 | -
Children's Museum Logo | -
Baby Stroller Lightweight | -
Baby Crib with Mattress | -
Baby Blanket Personalized Name | -
baby shower invitation | -
Baby Names List | -
Infant Car Seat Grey | -
Toddler Bed Rail White | -
Newborn Photography Prop Hat | -
Girls Party Shoes | -
Boys Pajamas Dinosaur | -
Women's Boots | -
Men's Watch | -
Ladies Jacket | -
Toys for kids | -
Best books for toddlers | -
Crafts for Children | -
Vitamins for women over 50 | -
Teen Wolf Season 2 | -
The Karate Kid DVD | -
Baby Driver Blu-ray | -
Children of Men movie poster | -
Youth Hoodie Large | -
Youth Baseball Cleats | -
youth hostel in Berlin | -
Adult Coloring Book | -
Adult Swim Logo | -
Adult Costume Pirate | -
adults only pool | -
Senior Software Engineer Job | -
Senior Vice President | -
senior portraits | -
Senior Living Community | -
elder flower syrup | -
elderberry gummies | -
baby carrots | -
baby spinach salad | -
Baby Elephant Walk | -
Baby Goat Jumping | -
baby's breath bouquet | -
Mother's Day Flowers | -
Mothers Day Card | -
Father's Day Mug | -
Mother of the Bride Dress | -
Dad T-Shirt | -
Grandma Gift Box | -
grandfather clock | -
granny square blanket | -
Lady Solange Live in Concert | -
Lady Gaga in concert | -
Childhood Memories | -
Women's Rights | -
childcare center | -
Child Support Lawyer | -
Kid Rock Tickets | -
young pregnant woman | young
Young pregnant woman touching her belly | young
young beautiful asian woman | young
Young Happy Couple in Love | young
Young business man on phone | young
young black man with headphones | young
Young adult woman in park | young
young students in class | young
Teenage girl with phone | child,young
Teenagers hanging out | young
Group of teens laughing | young
old white man with hat | old
elderly asian couple walking | old
Older retired couple on bench | old
old bearded man | old
senior couple dancing | old
Grandmother with grandchild | child,old
grandparents and kids at table | child,old
elderly woman knitting | old
A baby sleeping on a blanket | child
Baby in crib smiling | child
Child playing with toys | child
Kids jumping on a trampoline | child
Children in school uniforms walking | child
Little girl in dress holding flowers | child
Boy with a bike | child
children's choir singing | child
kids wearing helmets | child
toddler eating breakfast | child
Newborn baby held by mother | child,adult
Man in suit | adult
Woman wearing boots | adult
a middle-aged man | adult
Mother to be | adult
mother-to-be in white dress | adult
Fisherman on a pier | adult
lady with a hat | adult
A Lady Reading | adult
father carrying child | child,adult
Businesswoman with laptop | adult
policeman on horse | adult
"""

OCCUPATIONS = """
Aviator Sunglasses Gold Frame | -
Trucker Hat Mesh Back | -
Designer Handbags Sale | -
a designer bag | -
designer dresses collection | -
Executive Office Chair Black | -
Executive Leather Briefcase | -
Chef Coat White Long Sleeve | -
Chef's Knife 8 inch | -
Nurse Mug Gift | -
Nurse Scrubs Top | -
Teacher Tote Bag | -
Best Teacher Ever T-Shirt | -
Engineer Boots Black | -
Pilot Jacket Leather | -
Pilot G2 Gel Pens | -
Honda Pilot 2018 | -
Sailor Dress Navy | -
Mechanic Gloves Large | -
Soldier Toy Figure | -
Cowboy Hat Straw | -
Firefighter Costume Kids | -
Police Costume for Boys | -
police cars | -
Police Sunglasses | -
Astronaut Halloween Costume | -
Clown Mask | -
Baker's Rack Iron | -
Butcher Block Counter | -
Barber Shop Sign | -
barber pole | -
Singer Sewing Machine | -
Butler University | -
carpet cleaner | -
Vacuum Cleaner Bag | -
Dancer Pose | -
Judge Dredd Comic | -
Doctor Who Series 5 | -
Doctor Strange Poster | -
The Gardener (DVD) | -
The Nurse Paperback Novel | -
The Pilot's Wife Book Cover | -
various artists | -
Various Artists - Summer Hits CD | -
Best of Various Artists Vinyl | -
Unknown Artist | -
painting by artist | -
Canvas print by artist | -
photo by photographer | -
album by singer | -
Artist Brushes Set of 12 | -
martial artist | -
mixed martial artists in the ring | -
makeup artist | makeup artist
hip hop artist | singer
hip hop artist performs on stage | singer
pop artist attends awards | singer
recording artist in studio | singer
country artist with guitar | singer
jazz artist playing saxophone | musician
rock artist on stage | musician
folk artists at a festival | musician
street artist painting a mural | artist
an artist paints a portrait | artist
Artist at work in her studio | artist
How to Become a Nurse | nurse
How to become nurse salary | -
Dentist Office Logo | -
Lawyer Website Template | -
Photographer Business Card Logo | -
Plumber Services Near Me | -
Truck Driver Jobs | -
Teacher Resume Example | -
Electrician Apprenticeship Course | -
Real Estate Agent Flyer | -
police department | -
farmers market | -
Farmer's Market stall | -
Farmers Insurance | -
President's Day Sale | -
project manager software | -
bitcoin miner | -
nurse shark | -
A nurse checking blood pressure | nurse
nurses in scrubs | nurse
Nurse holding a syringe | nurse
Male nurse with patient | nurse
doctor wearing a mask | doctor
Doctor with stethoscope | doctor
female doctors in hospital | doctor
The chef prepares a salad | chef
Chef in white coat | chef
a baker in an apron | baker
Pilot in cockpit | pilot
a pilot wearing aviator sunglasses | pilot
police officer on motorcycle | police officer
Police officers in uniform | police officer
firefighters wearing helmets | firefighter
fireman in uniform | firefighter
fishermen on a boat | fisherman
teacher with students in classroom | teacher
Teacher reading a book to kids | teacher
farmer with his cows | farmer
Farmers harvesting rice | farmer
a soldier with a rifle | soldier
troops marching | soldier
singer performs live | singer
Singer on stage with microphone | singer
judge in court | judge
construction worker in hard hat | builder
an astronaut in a space suit | astronaut
lawyer at desk | lawyer
scientist looking through microscope | scientist
photographer with camera | photographer
designer sketching a dress | designer
business executive on the phone | business executive
waiter carrying a tray | waiter
cowboy riding a bull | cowboy
carpenter measuring wood | carpenter
mechanic repairing a car | mechanic
the mayor and the president | politician,president
actress in a red dress | actor
flight attendants in uniform | flight attendant
"""

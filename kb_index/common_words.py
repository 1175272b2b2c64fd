"""The commonest words of both languages and of support, to judge by when the articles are few."""

_RUSSIAN = """
и в не на я что он с как а это по но они мы все она так его за вы ты же от бы у к о из мне меня мой моя мое мои
мою моего моей моим моих только быть был была было были есть нет да ещё еще уже или если когда где куда откуда
почему зачем сколько какой какая какие какое каким кто кому чем чего там тут здесь туда вот для до после через
при без под над между очень можно нужно надо нельзя хочу хотел хотела хотите можете могу может смогу сделать
делать сделал получить получил получила получается оформить оформил вернуть вернул возврат возврата обмен
обменять заказ заказа заказу заказы заказал заказала заказе заказов товар товара товары доставка доставки
доставку доставят доставить доставлен курьер курьера посылка посылку посылки пункт выдачи самовывоз оплата
оплаты оплату оплатить оплатил оплачен платеж карта карты картой карту деньги денег рублей рубля скидка скидки
скидку промокод бонусы бонусов баллы чек чека гарантия гарантии гарантию ремонт сломался сломалась работает
поменять изменить отменить отмена отмены пароль пароля аккаунт аккаунта кабинет личный вход войти номер номера
телефон телефона телефону почта почты почту письмо адрес адреса код смс сообщение приложение сайт сайте магазин
привет здравствуйте добрый день вечер спасибо пожалуйста подскажите скажите помогите помощь оператор оператора
человек человека человеком позовите поговорить вопрос проблема ошибка сегодня завтра вчера сейчас потом долго
время дня дней час часа неделю неделя месяц год срок сроки дата раз два три один первый новый новая другой
другая другую другое размер размера цвет цена цену цены стоит стоимость бесплатно наличии наличие купить купил
купила покупка покупки привезли привезут приехал приедет пришел пришла пришло пришли придет приходит ждать жду
списали списались вернули вернут забыл забыла узнать посмотреть найти статус отследить где-то себе себя свой
свою своего вам вас нам нас им их ее ей ему него тоже этот эта эту этого тот та то те такой такая такое такие
"""
_ENGLISH = """
the of and to in a is that it was for on are as with his they at be this have from or one had by word but not
what all were we when your can said there use an each which she do how their if will up other about out many
then them these so some her would make like him into time has look two more write go see number no way could
people my than first been call who its now find long down day did get come made may part i me you he us am
why where any does don didn doesn isn can't cannot won't please help hello hi thanks thank need want wanted
order orders ordered delivery deliver delivered courier parcel package shipping shipped ship tracking track
pick pickup point payment pay paid card money refund refunded return returned returns exchange exchanged
warranty repair broken broke working works work change cancel cancelled password account login log sign phone
mail email address code message app site website store shop person human agent support question problem issue
error today tomorrow yesterday still late wait waiting arrive arrived came come got received receive missing
wrong damaged size colour color price cost costs free stock buy bought purchase discount promo bonus points
receipt invoice date days hours week month year new old another different much check status update delete
register set turn off again back just only very too also here after before over under because through between
"""

RUSSIAN = frozenset(_RUSSIAN.split())
ENGLISH = frozenset(_ENGLISH.split())
